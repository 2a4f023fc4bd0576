"""The reader of published results and hyper-parameters, on files right and wrong."""

import pytest

from temper.benchmark.analysis import (
    PERTURBATIONS,
)
from temper.benchmark.published import read_published, read_published_hyperparameters
from temper.errors import DataError

HEADER = (
    ",clean_acc,Linf_acc,L2_acc,L1_acc,common_acc,sum,geom,model_size,backbone,dataset,loss_function,"
    "pre_training_dataset,pre_training_strategy,volume_pre_training_data,backbone_name,model_type,ft_strategy"
)
ROW = '0,0.5,0.5,0.5,0.5,1.0,3.0,0.0625,large,net,pets,TRADES,in1k,fusion,1,"a,b",fully attention,FFT (5 epochs)'


@pytest.fixture
def results(tmp_path):
    def write(*lines):
        path = tmp_path / "results.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_a_published_row(results):
    row = read_published(results(HEADER, ROW)).iloc[0].to_dict()
    assert row == {
        "backbone": "net",
        "dataset": "pets",
        "objective": "trades-guide",
        "schedule": "fixed",
        "protocol": "full-5",
        "seed": 1,
        "tier": "large",
        "type": "attention",
        "pretraining": "fusion",
        "pretraining_data": "in1k",
    } | dict(zip(PERTURBATIONS, (0.5, 0.5, 0.5, 0.5, 1.0), strict=True))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace("Linf_acc", "linf_acc"), ROW], r"no column 'Linf_acc' \(it has 'linf_acc'\)"),
        ([HEADER], "has no rows"),
        ([HEADER, ROW, ROW], "line 3: this run was there before"),
        ([HEADER, ROW.replace("3.0", "3.1")], "line 2: column 'sum' is not the sum"),
        ([HEADER, ROW.replace("0.0625", "0.06")], "line 2: column 'geom' is not the product"),
        ([HEADER, ROW.replace("0,0.5", "0,1.5")], "line 2: clean accuracy is not in"),
        ([HEADER, ROW.replace("0,0.5", "0,half")], "line 2: column 'clean_acc' is not a number"),
        ([HEADER, ROW.replace("0,0.5", "0,")], "line 2: column 'clean_acc' is empty"),
        ([HEADER, ROW.replace("TRADES", "MART")], "'loss_function' is none of Classic AT, TRADES"),
        (['"'], "not a CSV file"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(results, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        read_published(results(*lines))
    assert "results.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(DataError, match="not a CSV file"):
        read_published(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)) * 9)
    for read in (read_published, read_published_hyperparameters):
        with pytest.raises(DataError, match="binary"):
            read(tmp_path / "binary.csv")


def test_published_hyperparameters(results):
    header = "protocol,backbone,dataset,loss,epochs,lr_backbone,lr_head,wd_backbone,wd_head,cosine,epsilon"
    line = "LP-50,net,pets,CLASSIC_AT,50,0.001,0.1,0.0,2e-6,True,0.0157"
    table = read_published_hyperparameters(results(header, line, line))
    assert table.to_dict("records") == [
        {
            "backbone": "net",
            "dataset": "pets",
            "objective": "at",
            "protocol": "linear-50",
            "epochs": 50,
            "backbone_lr": 0.001,
            "head_lr": 0.1,
            "backbone_weight_decay": 0.0,
            "head_weight_decay": 2e-6,
            "lr_schedule": "cosine",
        }
    ]
    with pytest.raises(DataError, match="line 3: head_lr is negative"):
        read_published_hyperparameters(results(header, line, line.replace("0.1", "-0.1")))
    with pytest.raises(DataError, match="no column 'loss'"):
        read_published_hyperparameters(results(HEADER, ROW))

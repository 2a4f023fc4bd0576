"""The reader of published hyper-parameters, on files right and wrong."""

import pytest

from temper.benchmark.published import read_published_hyperparameters
from temper.errors import DataError

HEADER = "protocol,backbone,dataset,loss,epochs,lr_backbone,lr_head,wd_backbone,wd_head,cosine,epsilon"
LINE = "LP-50,net,pets,CLASSIC_AT,50,0.001,0.1,0.0,2e-6,True,0.0157"


@pytest.fixture
def table(tmp_path):
    def write(*lines):
        path = tmp_path / "table.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def test_published_hyperparameters(table):
    assert read_published_hyperparameters(table(HEADER, LINE, LINE)).to_dict("records") == [
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


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER.replace("dataset", "datasets"), LINE], r"no column 'dataset' \(it has 'datasets'\)"),
        ([HEADER], "has no rows"),
        ([HEADER, LINE, LINE.replace("0.1", "-0.1")], "line 3: head_lr is negative"),
        ([HEADER, LINE.replace("0.001", "much")], "line 2: column 'lr_backbone' is not a number"),
        ([HEADER, LINE.replace("0.001", "")], "line 2: column 'lr_backbone' is empty"),
        ([HEADER, LINE.replace("CLASSIC_AT", "MART")], "'loss' is none of CLASSIC_AT, TRADES_v2"),
        (['"'], "not a CSV file"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(table, lines, message):
    with pytest.raises(DataError, match=message) as caught:
        read_published_hyperparameters(table(*lines))
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_not_text(tmp_path):
    with pytest.raises(DataError, match="not a CSV file"):
        read_published_hyperparameters(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)) * 9)
    with pytest.raises(DataError, match="binary"):
        read_published_hyperparameters(tmp_path / "binary.csv")

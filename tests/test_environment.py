"""What ``temper env`` tells."""

import getpass
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from temper.cli import env
from temper.cli import main as cli
from temper.core import environment


def test_versions_devices_threads_and_precision_are_those_that_compute(capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert cli.main(["env", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert told["cuda"] == torch.version.cuda
    assert told["versions"]["python"] == platform.python_version()
    assert told["devices"] == [{"name": "cpu", "kind": "AVX2", "search": "float32", "training": "float32"}]
    assert told["threads"] == 7
    assert {"lora", "onnx", "test"} <= told["extras"].keys()


def test_gpus_are_told_with_what_they_search_and_train_in(monkeypatch):
    gpu = type("Properties", (), {"name": "Some GPU", "total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    told = environment.environment().devices
    assert [each.name for each in told] == ["cpu", "cuda:0", "cuda:1"]
    assert told[1] == environment.Device("cuda:0", "Some GPU, 80 GiB", search="float16", training="float32")


def test_an_extra_lacks_the_packages_that_are_not_installed():
    requirements = ["numpy>=1", 'numpy>=1; extra == "a"', 'no-such-thing>=2; extra == "a"', "other[x]; extra == 'b'"]
    assert environment.missing(requirements) == {"a": ("no-such-thing",), "b": ("other",)}


def test_what_lacks_is_told_with_what_installs_it(capsys, monkeypatch):
    monkeypatch.setattr(environment, "missing", lambda requirements: {"demo": (), "onnx": ("onnx", "onnxscript")})
    assert cli.main(["env"]) == 0
    told = dict(re.split("  +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["extras"] == "demo"
    assert told["no onnx"] == "lacks onnx, onnxscript: pip install 'temper-robust[onnx]'"
    assert told["temper"] == environment.versions()["temper"]


def test_it_names_no_host_user_or_path():
    told = "\n".join(env.lines(environment.environment()))
    for private in (platform.node(), getpass.getuser(), str(Path.home()), sys.prefix):
        assert private not in told.split()
        assert "/" not in private or private not in told


@pytest.mark.slow
def test_it_imports_torch_and_nothing_that_takes_as_long():
    heavy = {"timm", "torchvision", "lightning_fabric", "sklearn", "transformers", "matplotlib"}
    script = f"import sys; from temper.cli.main import main; main(['env']); print(*{heavy}.intersection(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == ""

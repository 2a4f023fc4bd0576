"""Networks that a user's own function returns: ``module:factory``."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from temper.core.precision import check_precision
from temper.errors import ModelError
from temper.models.built import Built
from temper.models.sources.source import ModelSource, Request
from temper.models.sources.trial import built_as_it_takes
from temper.text import did_you_mean, nearest


class FactorySource(ModelSource):
    """What the factory returns, found from the working directory too.

    The factory takes no argument, or ``num_classes``. Its normalisation is taken to be its own affair (mean 0, std 1
    here). A forward pass checks the output and finds the head: at ``image_size`` where that is given, else on
    ``example``, images float [N, C, H, W] of the data in question, else at the first usual size that the network
    accepts. Square images of the data give the network its size, and so does its refusal of all others.
    """

    form = "module:factory"
    builds_heads = True

    @classmethod
    def names(cls, text: str) -> bool:
        """See :meth:`ModelSource.names`."""
        module, _, name = text.partition(":")
        return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        with _working_directory_importable():
            _find_factory(self.text)

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`; it cannot where what is returned is no network, or gives no [N, K], either."""
        with _working_directory_importable():
            network = _called(self.text, _find_factory(self.text), request.num_classes)
        if not isinstance(network, nn.Module):
            raise ModelError(f"{self.text}: returned {type(network).__name__}; it must return a torch.nn.Module")
        network = uncompiled(network)
        check_precision(network, self.text)
        return built_as_it_takes(self.text, network, request)


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` was given: hooks do not see into compiled code, and names differ in it."""
    for module in network.modules():
        module._compiled_call_impl = None
        for name, child in module.named_children():
            setattr(module, name, getattr(child, "_orig_mod", child))
    whole: nn.Module = getattr(network, "_orig_mod", network)
    return whole


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Inside, modules of the working directory can be imported."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _find_factory(text: str) -> Callable[..., object]:
    """What ``module:factory`` names; a ModelError where it names nothing that can be called."""
    module_name, _, attribute = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module was found; something that it imports was not
        raise ModelError(
            f"{text}: no module {error.name!r}; run from the folder that holds {error.name}.py or install it"
        ) from error
    try:
        factory: object = getattr(module, attribute)
    except AttributeError as error:
        near = [f"{module_name}:{name}" for name in nearest(attribute, dir(module))]
        hint = did_you_mean(near, "name a function that returns a network")
        raise ModelError(f"{text}: module {module_name!r} has no {attribute!r}; {hint}") from error
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ModelError(f"{text}: is a {type(factory).__name__}; name a function that returns a network")
    return factory


def _called(text: str, factory: Callable[..., object], num_classes: int | None) -> object:
    signature = inspect.signature(factory)
    takes_classes = num_classes is not None and "num_classes" in signature.parameters
    arguments = {"num_classes": num_classes} if takes_classes else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{text}: takes {signature}; it may take num_classes (then give it) and nothing else"
        ) from error
    return factory(**arguments)

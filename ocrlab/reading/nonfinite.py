"""Where does the first NaN or infinity arise? Hooks on every module name the first whose output is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Trace:
    """The first output that was not finite: which module, of which class, at which forward pass (0: the prompt's).

    `made_inside` says that it arose in the module's own code, between its parts: an attention function, for one.
    `largest_input` is the largest finite magnitude that went in, `nan` and `inf` count the output's values.
    """

    module: str
    kind: str
    made_inside: bool
    forward: int
    nan: int
    inf: int
    largest_input: float | None
    dtype: str

    def __str__(self) -> str:
        where = "inside" if self.made_inside else "at the output of"
        came = "" if self.largest_input is None else f"; the largest value that went in was {self.largest_input:.4g}"
        step = "the prompt" if self.forward == 0 else f"new token {self.forward}"
        return f"{where} {self.module} ({self.kind}, {self.dtype}), at {step}: {self.nan} NaN, {self.inf} inf{came}"


class NotFinite(ArithmeticError):
    """Raised inside the traced block at the first output that is not finite; carries the trace."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(str(trace))
        self.trace = trace


@contextmanager
def tracing(model: nn.Module) -> Iterator[None]:
    """Within the block, the model's forward raises NotFinite at the first module whose output is not finite.

    The block waits for the device at every module: it is for finding a fault, not for reading.
    """
    passes = -1
    names = {module: name for name, module in model.named_modules()}

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal passes
        passes += module is model

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if (bad := _first_bad(args)) is not None:  # every module's output was sound so far: it arose between them
            parent = names[module].rpartition(".")[0] or names[module]
            raise NotFinite(_trace(parent, model.get_submodule(parent), bad, (), True, passes))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if (bad := _first_bad(output)) is not None:
            has_parts = next(module.children(), None) is not None
            raise NotFinite(_trace(names[module], module, bad, _tensors(args), has_parts, passes))

    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(begin))
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(before))
            hooks.enter_context(module.register_forward_hook(after))
        yield


def _first_bad(value: Any) -> Tensor | None:
    return next((t for t in _tensors(value) if not bool(t.isfinite().all())), None)


def _trace(
    name: str, module: nn.Module, bad: Tensor, inputs: tuple[Tensor, ...], made_inside: bool, passes: int
) -> Trace:
    finite = [t[t.isfinite()].abs().max() for t in inputs if bool(t.isfinite().any())]
    largest = float(max(finite)) if finite else None
    nan, inf, dtype = int(bad.isnan().sum()), int(bad.isinf().sum()), str(bad.dtype).removeprefix("torch.")
    return Trace(name, type(module).__name__, made_inside, max(passes, 0), nan, inf, largest, dtype)


def _tensors(value: Any) -> tuple[Tensor, ...]:
    """Return the floating-point tensors of a module's arguments or output, however they are wrapped."""
    import torch

    if isinstance(value, torch.Tensor):
        return (value,) if value.is_floating_point() else ()
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return tuple(t for part in values for t in _tensors(part))

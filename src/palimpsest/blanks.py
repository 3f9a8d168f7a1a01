"""A method file and its test, with blanks to fill: ``palimpsest new objectives my_loss``.

In a checkout of Palimpsest they go where methods and their tests lie.  In any other folder they go into that one, for
recipes beside them to name as ``my_loss:MyLoss``.

The blanks are written in angle brackets.  The test fails until they are filled and a value is asserted, so that an
empty method is never taken for a finished one.
"""

from __future__ import annotations

import difflib
import keyword
import re
from pathlib import Path

from palimpsest.checkpoint import write_text
from palimpsest.names import FAMILIES

__all__ = ["write_blanks"]

_CARD = '''"""<One plain sentence: what the method does, for whom.>

    <equation, with one line for each symbol that is not obvious>

Paper: <Title (Authors, year), arXiv number, equation number>.
Code: <owner/repository of the authors' code, or none>.
Tags: <tags of docs/tags.md>.
Needs: <what must be there beside the model and this role: ref, teacher, an activation, or nothing>.
Differs: <from the paper and from its code, each difference with its reason; or nothing known>.
See: ``<name>`` (<how it is related>).
"""

from __future__ import annotations
'''

_BODIES = {
    "objectives": '''
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from palimpsest.objective import Objective
from palimpsest.views import TokenView, Unit

__all__ = ["METHOD", "{cls}", "{name}"]


def {name}(logp: Tensor) -> Tensor:
    """``logp`` of the targets in nats, [B, T-1] -> losses of that shape, <range>."""
    raise NotImplementedError("<the equation>")


@dataclass(frozen=True)
class {cls}(Objective):
    """<The fields: meaning and range.>"""

    unit: ClassVar[Unit] = "token"

    def __call__(self, view: TokenView, state: nn.Module | None = None) -> Tensor:
        """[B, T-1], one value per scored token; never reduced here."""
        return {name}(view.logp)
''',
    "audits": '''
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from palimpsest.audit import Row, Scores, Subject, role_rows, row_ids

__all__ = ["METHOD", "{cls}", "{name}"]


def {name}(logp: Tensor) -> float:
    """Log-probabilities of one row's scored tokens in nats, [T] -> <value and range>."""
    raise NotImplementedError("<the equation>")


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(self, subject: Subject, data: Mapping[str, Sequence[Row]], role: str) -> Scores:
        """One value per row."""
        import torch

        rows = role_rows(data, role, "{name}")
        items = torch.tensor([{name}(logp) for logp in subject.logp(rows)], dtype=torch.float64)
        return Scores("{name}", items, row_ids(rows, role), "<higher, lower or nearer:retrained>", role)
''',
    "edits": '''
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from palimpsest.patch import Patch
from palimpsest.roles import Roles

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(self, model: nn.Module, roles: Roles, companions: Mapping[str, nn.Module] | None = None) -> Patch:
        """The change of weights; the model itself is left alone."""
        raise NotImplementedError("<the equation>")
''',
    "masks": '''
from dataclasses import dataclass

from torch import nn

from palimpsest.mask import Mask
from palimpsest.roles import Roles

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(self, model: nn.Module, roles: Roles) -> Mask:
        """Decides which weights may move, at the weights as they are now."""
        raise NotImplementedError("<the rule>")
''',
    "interventions": '''
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    @contextlib.contextmanager
    def attach(self, model: nn.Module, companions: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
        """A context in which ``model`` behaves otherwise; detaching leaves no trace."""
        raise NotImplementedError("<the hooks>")
        yield model
''',
    "selectors": '''
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from palimpsest.audit import Row
from palimpsest.select import Selection

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(self, data: Sequence[Row], model: nn.Module | None = None) -> Selection:
        """Which rows are taken, with what weight."""
        raise NotImplementedError("<the rule>")
''',
    "schedules": '''
from dataclasses import dataclass

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(self, progress: float) -> float:
        """``progress`` in [0, 1] -> multiplier, at least 0."""
        raise NotImplementedError("<the equation>")
''',
    "laws": '''
from collections.abc import Sequence
from dataclasses import dataclass

from palimpsest.audit import Row
from palimpsest.law import Fitted

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The columns of the table.>"""

    target: str = "loss"

    @property
    def variables(self) -> tuple[str, ...]:
        """The columns that the curve depends on."""
        raise NotImplementedError("<the columns>")

    def fit(self, rows: Sequence[Row]) -> Fitted:
        """The constants that fit ``rows`` best, from several starts."""
        raise NotImplementedError("<the fit>")
''',
    "procedures": '''
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from palimpsest.loop import Progress, Result, Training
from palimpsest.objective import Total
from palimpsest.reference import Reference
from palimpsest.roles import Roles
from palimpsest.step import States

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(
        self,
        model: nn.Module,
        roles: Roles,
        objective: Total,
        training: Training,
        *,
        seed: int = 0,
        reference: Reference | None = None,
        folder: Path | None = None,
        on_step: Callable[[Progress], None] | None = None,
        previous: States | None = None,
    ) -> Result:
        """Trains ``model`` in place by calls of ``fit``; killed and called again, it ends with the same weights."""
        raise NotImplementedError("<the steps>")
''',
    "baselines": '''
from dataclasses import dataclass

from palimpsest.recipe import Baseline, Recipe

__all__ = ["METHOD", "{cls}"]


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def __call__(self, recipe: Recipe) -> Baseline:
        """The run ``{name}``, and where it starts."""
        raise NotImplementedError("<the stages>")
''',
    "optim": '''
from collections.abc import Callable, Iterable
from typing import Any

import torch

__all__ = ["METHOD", "{cls}"]


class {cls}(torch.optim.Optimizer):
    """<The hyperparameters: meaning and range.> Its state is tensors only, so that it can be saved.

    Arguments behind the star are what a recipe may set; lr and weight_decay come from ``train``.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.0, *, beta: float = 0.9) -> None:
        super().__init__(params, {{"lr": lr, "weight_decay": weight_decay, "beta": beta}})

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        raise NotImplementedError("<the equation>")
''',
    "layers": '''
from dataclasses import dataclass

from torch import Tensor, nn

__all__ = ["METHOD", "{cls}", "{cls}Module"]


class {cls}Module(nn.Module):
    """<The sizes: meaning and range.>"""

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        raise NotImplementedError("<the equation>")


@dataclass(frozen=True)
class {cls}:
    """<The fields: meaning and range.>"""

    def install(self, model: nn.Module) -> None:
        """Puts the module in the place of <which>; raises ``ValueError`` where the model has none that fits."""
        raise NotImplementedError("<what is replaced>")

    def merge(self, model: nn.Module) -> None:
        """Puts plain modules back that compute the same."""
        raise NotImplementedError("<what it becomes>")
''',
}

_TEST = '''"""<One sentence: what {name} must do, and how the expected numbers were found.>"""

from __future__ import annotations

import inspect
import re

{imports}


def test_no_blank_is_left() -> None:
    blanks = re.findall(r"<[A-Za-z][^<>\\n]*>", inspect.getsource({name}))
    assert not blanks, f"{file} still has the blank {{blanks[0]}}; fill it in."


def test_value() -> None:
    expected, found = 0.0, None  # <a number from a naive loop, and what {cls} gives>
    assert found is not None, "No value of {cls} is tested yet; compare one with a closed form or a naive loop."
    assert abs(found - expected) < 1e-6
'''


def write_blanks(noun: str, name: str, root: Path) -> list[Path]:
    """Writes the method file and its test into the folder ``root``, a checkout or not, and returns their paths.

    Raises ``ValueError`` for a noun that does not exist (naming the nearest) and for a name that is not snake case, and
    ``FileExistsError`` where a file is there already; nothing is written then.
    """
    _check(noun, name)
    checkout = (root / "src" / "palimpsest").is_dir()
    method = root / "src" / "palimpsest" / noun / f"{name}.py" if checkout else root / f"{name}.py"
    test = (root / "tests" / "methods" if checkout else root) / f"test_{name}.py"
    for path in (method, test):
        if path.exists():
            raise FileExistsError(f"{path} exists already; choose another name, or edit that file.")
    cls = "".join(part.capitalize() for part in name.split("_"))
    package = method.parent / "__init__.py"
    imports, file = (
        (f"from palimpsest.{noun} import {name}", f"{noun}/{name}.py") if checkout else (f"import {name}", f"{name}.py")
    )
    texts = {
        method: _CARD + _BODIES[noun].format(name=name, cls=cls) + f"\n\nMETHOD = {cls}\n",
        test: _TEST.format(name=name, cls=cls, imports=imports, file=file),
    }
    if checkout and not package.exists():
        texts[package] = '"""<What the methods of this folder are.> One file a method."""\n'
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def _check(noun: str, name: str) -> None:
    if noun not in FAMILIES:
        close = ["objectives"] if "loss" in noun else difflib.get_close_matches(noun, FAMILIES, 2, 0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(FAMILIES)}."
        raise ValueError(f"There is no noun {noun!r}; {hint}")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"{name!r} is no name in snake case; use small letters, digits and underscores, as in my_loss."
        )

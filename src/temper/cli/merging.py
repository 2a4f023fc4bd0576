"""The command that joins evidence: tables, and other tools' adversarial images."""

from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic.dataclasses import dataclass

from temper.cli import DONE
from temper.core.calls import Count, PixelCount, Seed
from temper.errors import ArgumentError, CallError

if TYPE_CHECKING:
    from temper.runs.merging import AdversarialFile


@dataclass(frozen=True)
class AdversarialOptions:
    """Adversarial images that another tool made, which join the table under its name."""

    adversarial: Path | None = None
    """FILE.npz, .npy or .pt: images as the model takes them, in [0, 1]; one for each of DATA in its order, or of those
    whose ids an array sample has."""
    norm: str | None = None
    """Linf, L2 or L1: what their distances are measured in."""
    source: str | None = None
    """The tool's name, as foolbox."""


@dataclass(frozen=True)
class MadeFromOptions:
    """What the adversarial images were made from: that of the tables."""

    model: str | None = None
    """MODEL, as of temper evaluate."""
    data: str | None = None
    """DATA, as of temper evaluate."""
    limit: Count | None = None
    """At most so many samples, as of temper evaluate; images of others are left aside."""
    seed: Seed = 0
    """Seed of the choice of these samples, as of temper evaluate."""
    image_size: PixelCount | None = None
    """Height and width in pixels that images are brought to, as of temper evaluate."""
    eot: Count | None = None
    """Passes for each answer of a random model, as of temper evaluate."""


@dataclass(frozen=True)
class Merge:
    """Join evidence tables of one model on one data set: per sample the nearest flip that any of them found, and per
    suite the largest radius survived. Any order and number of them, repeats too, gives the same table. Adversarial
    images that any other tool made join them: each is checked at full precision, and counts with its exact distance.

    Example: temper merge here/margins.parquet there --out both/margins.parquet
    """

    tables: tyro.conf.Positional[tuple[Path, ...]]
    """Parquet files, or folders of evaluations."""
    out: Path
    """The Parquet file to write."""
    given: Annotated[AdversarialOptions, tyro.conf.OmitArgPrefixes] = AdversarialOptions()
    """Adversarial images that another tool made, which join the table under its name."""
    made_from: Annotated[MadeFromOptions, tyro.conf.OmitArgPrefixes] = MadeFromOptions()
    """What the adversarial images were made from: that of the tables."""

    def run(self) -> int:
        """Merge, write, and say how many samples there are."""
        from temper.cli.console import say
        from temper.core.files import target
        from temper.margins import EvidenceTable
        from temper.runs.merging import check_file, merged_tables, nearer

        if not self.tables and not self.given.adversarial:
            raise ArgumentError("TABLE", (), "name at least one margins.parquet, or a folder that holds one")
        file = _file(self.given, self.made_from)
        target(self.out)  # before the tables are read
        tables = [merged_tables(self.tables)] if self.tables else []
        if file:
            checked = check_file(file, *tables)
            say(checked.in_words(), *(f"{nearer(each, checked):,} are nearer than any flip known" for each in tables))
            tables.append(checked.table)
        merged = reduce(EvidenceTable.merge, tables)
        merged.save(self.out)
        say(f"{self.out}: {len(merged)} samples, {', '.join(merged.norms)}")
        return DONE


def _file(given: AdversarialOptions, made_from: MadeFromOptions) -> "AdversarialFile | None":
    """The file of images, with what it takes to check them; None where none is named.

    Raises:
        CallError: something of that is missing, or is there without a file.
    """
    from temper.runs.merging import AdversarialFile, MadeFrom

    path, norm, source, model, data = given.adversarial, given.norm, given.source, made_from.model, made_from.data
    needed = {"norm": norm, "source": source, "model": model, "data": data}
    others = {"limit": made_from.limit, "seed": made_from.seed or None, "image-size": made_from.image_size}
    others["eot"] = made_from.eot
    if path is None:
        for name, value in (needed | others).items():
            if value is not None:
                raise CallError(f"--{name} is about adversarial images: name their file, --adversarial FILE")
        return None
    if norm is None or source is None or model is None or data is None:
        missing = next(name for name, value in needed.items() if value is None)
        raise CallError(f"--{missing} is missing: --adversarial takes --{', --'.join(needed)}")
    of = MadeFrom(model, data, made_from.limit, made_from.seed, made_from.image_size, made_from.eot)
    return AdversarialFile(path, norm, source, of)

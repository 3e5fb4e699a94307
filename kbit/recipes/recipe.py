"""Recipe: which format and method each matrix of a model gets, as one value with one canonical JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import yaml

from kbit.errors import FormatError
from kbit.formats import Format
from kbit.methods import METHODS
from kbit.models import Site
from kbit.recipes.fixed_point import FixedPoint, integer_format

KEPT = "bf16"  # what `keep` and the parameters that are no matrices are stored in
NAMED_IN_AN_ERROR = 3


@dataclass(frozen=True)
class Recipe:
    """Formats by the role of a matrix, with exceptions by name. Format strings are stored as kbit prints them.

    weights, method: of the linear layers. embeddings, lm_head: their formats; a tied head is an embedding.
    layers: glob -> format, or {"format": ..., "method": ...}. keep: globs of what stays in bf16; it goes before `layers`.
    A glob is matched against a matrix's key (model.layers.0.mlp.down_proj) and the name of its parameter; of several that match,
    the one with the most letters that are no wildcards decides, and of equals the last in the alphabet.
    tables: the levels of `table` codebooks by name. Routers of experts stay in bf16 unless `layers` names them.
    fixed_point: how the model runs on integers alone (a FixedPoint, or its settings); None: it runs on floats.
    """

    weights: str
    method: str = "rtn"
    embeddings: str = "int8-row"
    lm_head: str = "int8-row"
    layers: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    tables: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    fixed_point: FixedPoint | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        settled: dict[str, Any] = {
            "tables": {name: tuple(float(level) for level in levels) for name, levels in sorted(self.tables.items())},
            "keep": tuple(sorted(set(self.keep))),
        }
        object.__setattr__(self, "tables", settled["tables"])
        for role in ("weights", "embeddings", "lm_head"):
            settled[role] = str(self._parse(getattr(self, role)))
        settled["method"] = _method(self.method)
        settled["layers"] = {glob: self._layer(glob, choice) for glob, choice in sorted(self.layers.items())}
        if self.fixed_point is not None:
            settled["fixed_point"] = FixedPoint.of(self.fixed_point)
            settled |= {role: str(integer_format(settled[role])) for role in ("weights", "embeddings", "lm_head")}
            if self.keep:
                raise FormatError("nothing stays in 16 bits where a model runs on integers alone. Leave out 'keep'.")
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash(self.to_json())

    @classmethod
    def of(cls, wanted: Recipe | Format | str, method: str = "rtn") -> Recipe:
        """A recipe as it is, or the one that gives all linear layers a format and a method."""
        return wanted if isinstance(wanted, Recipe) else cls(weights=str(wanted), method=method)

    @classmethod
    def from_dict(cls, settings: Any) -> Recipe:
        """The recipe with these settings; FormatError names a key that does not exist, or is missing."""
        if not isinstance(settings, Mapping):
            raise FormatError("it is not a map of settings. Write at least: weights: nf4-b64.")
        known = [entry.name for entry in fields(cls)]
        for key in settings:
            if key not in known:
                near = get_close_matches(str(key), known, 1, 0.0)[0]
                raise FormatError(f"there is no setting '{key}'. Settings are {', '.join(known)}; perhaps {near}.")
        if "weights" not in settings:
            raise FormatError("it lacks the setting 'weights'. Write the format of the linear layers, such as weights: nf4-b64.")
        keep = settings.get("keep", ())
        return cls(**{**settings, "keep": tuple(keep) if isinstance(keep, list | tuple) else keep})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Inverse of to_json."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """The recipe in a YAML or JSON file. FormatError names the file and what is wrong in it."""
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls.from_dict(yaml.safe_load(text))  # JSON is YAML
        except OSError as error:
            raise FormatError(f"recipe {path}: cannot be read ({error.strerror}). Check the path.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            text = " ".join(str(error).split())
            raise FormatError(f"recipe {path}: is neither YAML nor JSON ({text}). Write settings as weights: nf4-b64.") from None
        except FormatError as error:
            raise FormatError(f"recipe {path}: {error}") from None

    def to_json(self) -> str:
        """Canonical JSON: all settings, keys sorted, no spaces. Recipes that mean the same have the same."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        layers = {glob: choice if isinstance(choice, str) else dict(choice) for glob, choice in self.layers.items()}
        tables = {name: list(levels) for name, levels in self.tables.items()}
        plain = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del plain["fixed_point"]  # a recipe of floats has the JSON that it had before there were others
        integers = {} if self.integers is None else {"fixed_point": self.integers.to_dict()}
        return {**plain, "layers": layers, "keep": list(self.keep), "tables": tables, **integers}

    def choice_for(self, site: Site) -> tuple[Format, str]:
        """The format and the method of one matrix. Floats (bf16) have no method; the word is then of no effect."""
        if any(_matches(glob, site) for glob in self.keep):
            return Format.parse(KEPT), self.method
        named = [glob for glob in self.layers if _matches(glob, site)]
        if named:
            choice = self.layers[max(named, key=lambda glob: (_letters(glob), glob))]
            text, method = (choice, self.method) if isinstance(choice, str) else (choice["format"], choice["method"])
            return self._parse(text), method
        text = {"embedding": self.embeddings, "lm_head": self.lm_head, "router": self.rest}.get(site.role, self.weights)
        return self._parse(text), self.method

    @property
    def integers(self) -> FixedPoint | None:
        """How the model runs on integers alone; None where it runs on floats."""
        assert self.fixed_point is None or isinstance(self.fixed_point, FixedPoint)
        return self.fixed_point

    @property
    def rest(self) -> str:
        """The float format of all that is no matrix (norms, biases, positions): bf16, or the weights' where those are floats."""
        return self.weights if Format.parse(self.weights, self._levels).is_float else KEPT

    def keeps(self, name: str) -> bool:
        """Whether `keep` names this parameter."""
        return any(fnmatchcase(name, glob) for glob in self.keep)

    def check(self, sites: Iterable[Site], others: Iterable[str] = ()) -> None:
        """FormatError where a glob matches no matrix among `sites`, and no name of `others`."""
        sites, others = list(sites), list(others)
        for glob in (*self.layers, *self.keep):
            if not any(_matches(glob, site) for site in sites) and not any(fnmatchcase(name, glob) for name in others):
                keys = [site.key for site in sites]
                near = get_close_matches(glob, keys, NAMED_IN_AN_ERROR, 0.0)
                raise FormatError(f"recipe: the glob '{glob}' matches no layer. Near are {', '.join(near)}.")

    def with_(self, **changes: Any) -> Recipe:
        """The recipe with some settings changed."""
        return replace(self, **changes)

    @property
    def _levels(self) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(levels) for name, levels in self.tables.items()}

    def _parse(self, text: str) -> Format:
        fmt = Format.parse(text, self._levels)
        if fmt.granularity == "token":
            raise FormatError(f"format '{text}': weights have no tokens. Write row, tensor, or a block such as b64.")
        return fmt

    def _layer(self, glob: str, choice: str | Mapping[str, str]) -> str | dict[str, str]:
        if isinstance(choice, str):
            return str(self._parse(choice))
        if not {"format"} <= choice.keys() <= {"format", "method"}:
            raise FormatError(f"layers '{glob}': it has the keys {', '.join(choice)}. Write a format, or format and method.")
        method = _method(choice.get("method", self.method))
        fmt = str(self._parse(choice["format"]))
        return fmt if method == self.method else {"format": fmt, "method": method}


def _matches(glob: str, site: Site) -> bool:
    return fnmatchcase(site.key, glob) or any(fnmatchcase(name, glob) for name in (site.name, *site.aliases))


def _letters(glob: str) -> int:
    return sum(character not in "*?[]" for character in glob)


def _method(name: str) -> str:
    if name not in METHODS:
        near = get_close_matches(name, METHODS, 1, 0.0)[0]
        raise FormatError(f"'{name}' is not a method. Methods are {', '.join(METHODS)}; perhaps {near}.")
    return name


def _check_types(recipe: Recipe) -> None:
    """FormatError where a setting is of another kind than it says."""
    right: dict[str, tuple[bool, str]] = {
        name: (isinstance(getattr(recipe, name), str), "a word, such as nf4-b64 or rtn")
        for name in ("weights", "method", "embeddings", "lm_head")
    }
    layers, keep, tables = recipe.layers, recipe.keep, recipe.tables
    right["layers"] = (
        isinstance(layers, Mapping)
        and all(isinstance(glob, str) and isinstance(choice, str | Mapping) for glob, choice in layers.items())
        and all(isinstance(word, str) for choice in layers.values() if isinstance(choice, Mapping) for word in choice.values()),
        'a map from a glob to a format, such as {"*.down_proj": "int8-row"}',
    )
    right["keep"] = (
        isinstance(keep, tuple | list) and all(isinstance(glob, str) for glob in keep),
        'a list of globs, such as ["*.layers.0.*"]',
    )
    right["tables"] = (
        isinstance(tables, Mapping)
        and all(
            isinstance(levels, tuple | list) and all(isinstance(level, int | float) for level in levels)
            for levels in tables.values()
        ),
        "a map from a name to a list of levels",
    )
    for name, (good, meaning) in right.items():
        if not good:
            raise FormatError(f"the setting '{name}' must be {meaning}.")

"""The grid of a study: what its YAML file may say, checked, with errors that name the line."""

from __future__ import annotations

import difflib
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from kbit.errors import KbitError, StoreError
from kbit.evaluation import PROTOCOLS, Protocol
from kbit.formats import Format
from kbit.methods import METHODS
from kbit.qat import METHOD, QAT, TrainPlan
from kbit.recipes import FixedPoint, Recipe
from kbit.study.braces import expand_braces

FLOAT = "float"  # activations of a model that runs on floats
RECIPE_NAME = re.compile(r"([a-z_]+)([1-8])(-[a-z0-9]+)*")  # a k, as a format has: the law and the report read it


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _words(text: str) -> str:
    _refusals_as_value_errors(expand_braces, text)
    return text


def _formats(text: str) -> str:
    for word in _refusals_as_value_errors(expand_braces, text):
        _refusals_as_value_errors(Format.parse, word)
    return text


def _methods(text: str) -> str:
    for word in _refusals_as_value_errors(expand_braces, text):
        if word not in (known := (*METHODS, QAT)):
            raise ValueError(f"there is no method '{word}'{_nearest(word, known)}. There are {', '.join(known)}.")
    return text


def _start(word: str) -> str:
    if word not in METHODS:
        raise ValueError(f"there is no method '{word}'{_nearest(word, METHODS)} to start from. There are {', '.join(METHODS)}.")
    return word


def _whole_numbers(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


def _activation(value: int | str) -> int | str:
    if value != FLOAT:
        if isinstance(value, str):
            raise ValueError(f"activations '{value}' are none. Write {FLOAT}, or bits from 4 to 8")
        _refusals_as_value_errors(lambda bits: FixedPoint(activations=bits), value)
    return value


def _listed_number(value: Any) -> Any:
    return [value] if isinstance(value, int | str) else value


def _settings(value: dict[str, Any]) -> dict[str, Any]:
    _refusals_as_value_errors(FixedPoint.of, value)
    for name in ("activations", "text_sha256"):
        if name in value:
            raise ValueError(f"'{name}' is a matter of the grid's own fields activations and calibration")
    return value


def _recipe(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    if RECIPE_NAME.fullmatch(name) is None:
        raise ValueError(f"'{name}' is no name for a recipe. Write letters and the k that it stands for, such as mix2")
    if _is_format(name):
        raise ValueError(f"'{name}' is a format. Give the recipe another name, such as mix2")
    for key, field in {"method": "methods", "fixed_point": "activations and fixed_point"}.items():
        if key in settings:
            raise ValueError(f"'{key}' of a recipe is a matter of the grid's own {field}")
    _refusals_as_value_errors(Recipe.from_dict, settings)
    return settings


def _is_format(word: str) -> bool:
    try:
        Format.parse(word)
    except KbitError:
        return False
    return True


def _recipes(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: _recipe(name, settings) for name, settings in value.items()}


def _refusals_as_value_errors(call: Any, text: Any) -> Any:
    """pydantic gathers ValueErrors and knows their place; a KbitError would pass it by."""
    try:
        return call(text)
    except KbitError as error:
        raise ValueError(str(error)) from None


def _nearest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; the nearest is '{near[0]}'" if near else ""


Words = Annotated[
    list[Annotated[str, Field(min_length=1), AfterValidator(_words)]], BeforeValidator(_listed), Field(min_length=1)
]
Formats = Annotated[list[Annotated[str, AfterValidator(_formats)]], BeforeValidator(_listed), Field(min_length=1)]
Activations = Annotated[
    list[Annotated[int | str, AfterValidator(_activation)]], BeforeValidator(_listed_number), Field(min_length=1)
]
Settings = Annotated[dict[str, Any], AfterValidator(_settings)]
Recipes = Annotated[dict[str, dict[str, Any]], AfterValidator(_recipes), Field(min_length=1)]
Methods = Annotated[list[Annotated[str, AfterValidator(_methods)]], BeforeValidator(_listed), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GridProtocol(_Strict):
    """A protocol of a grid: its texts, joined by an empty line, and what differs from `base` (a name of PROTOCOLS)."""

    text: Words
    base: str | None = None
    window: int | None = None
    stride: int | None = None
    bos: bool | str | None = None
    score: str | None = None
    max_windows: int | None = None
    dtype: str | None = None
    prepare: str | None = None
    compute: str | None = None

    @model_validator(mode="after")
    def _must_be_a_protocol(self) -> GridProtocol:
        if self.base is not None and self.base not in PROTOCOLS:
            known = ", ".join(PROTOCOLS)
            raise ValueError(
                f"there is no protocol '{self.base}' to start from{_nearest(self.base, PROTOCOLS)}. There are {known}."
            )
        _refusals_as_value_errors(self.named, "")
        return self

    def named(self, name: str) -> Protocol:
        """The protocol itself; `base` defaults to the protocol of PROTOCOLS that has this `name`, if there is one."""
        start = PROTOCOLS.get(self.base or name, Protocol())
        changes = self.model_dump(exclude={"text", "base"}, exclude_none=True)
        return Protocol(**{**vars(start), **changes})


class GridTraining(_Strict):
    """How the runs of `method: qat` are trained: a run for each number of steps.

    text: a file or a folder, as `kbit qat` reads it. teacher: the model that all learn from, by default each from itself. start:
    the method whose scales training starts from. The others are those of TrainPlan.
    """

    text: Annotated[str, Field(min_length=1)]
    steps: Annotated[list[int], BeforeValidator(_whole_numbers), Field(min_length=1)]
    teacher: Annotated[str, Field(min_length=1)] | None = None
    start: Annotated[str, AfterValidator(_start)] = METHOD
    batch: int | None = None
    window: int | None = None
    rate: float | None = None
    scale_rate: float | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    cross_entropy: float | None = None
    clip: float | None = None
    micro_batch: int | None = None
    precision: str | None = None
    recompute: bool | None = None
    check_every: int | None = None
    held_out: int | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _must_be_plans(self) -> GridTraining:
        _refusals_as_value_errors(lambda training: training.plans(), self)
        return self

    def plans(self) -> list[TrainPlan]:
        """The plan of each number of steps."""
        given = self.model_dump(exclude={"text", "steps", "teacher", "start"}, exclude_none=True)
        return [TrainPlan(steps=steps, **given) for steps in self.steps]


Protocols = Annotated[dict[str, GridProtocol], Field(min_length=1)]


class Part(_Strict):
    """Some of a grid's fields; what it leaves out is the grid's."""

    models: Words | None = None
    formats: Formats | None = None
    recipes: Recipes | None = None
    methods: Methods | None = None
    embeddings: Formats | None = None
    activations: Activations | None = None
    calibration: Words | None = None
    fixed_point: Settings | None = None
    training: GridTraining | None = None
    protocols: Protocols | None = None


@dataclass(frozen=True)
class Product:
    """Fields of which every combination is a run."""

    models: list[str]
    formats: list[str]
    recipes: dict[str, dict[str, Any]]
    methods: list[str]
    embeddings: list[str]
    activations: list[int | str]
    calibration: list[str]
    fixed_point: dict[str, Any]
    training: GridTraining | None
    protocols: dict[str, GridProtocol]


class Grid(Part):
    """models x (formats x embeddings, and recipes) x methods x activations x protocols; the union of these over the `parts`.

    models: folders, GGUF files or hub ids; braces and globs; relative to the folder of the grid's file.
    formats: of the linear layers. embeddings: formats of embeddings and lm_head alike. recipes: name -> the settings of a recipe
    (see kbit.recipes.Recipe) of several formats; its name stands for it as a format does, and says its k: mix2. activations:
    float, or the bits of those of a model that runs on integers alone. calibration: files of the text that such models are
    calibrated on. fixed_point: other settings of theirs. training: how the method qat trains. models, formats or recipes, and
    protocols must be said, by the grid or by each of its parts.
    """

    methods: Methods = ["rtn"]
    embeddings: Formats = ["int8-row"]
    activations: Activations = [FLOAT]
    calibration: Annotated[list[str], BeforeValidator(_listed)] = []
    fixed_point: Settings = {}
    parts: list[Part] = []
    _source: Path = PrivateAttr(default=Path("grid.yaml"))  # the file it came from: relative paths start in its folder

    @model_validator(mode="after")
    def _must_say_what_to_run(self) -> Grid:
        for names in (("models",), ("formats", "recipes"), ("protocols",)):
            if not all(any(getattr(self, name) or getattr(part, name) for name in names) for part in self.parts or [Part()]):
                raise ValueError(f"the field '{names[0]}' is missing. Add it{', or to each part' if self.parts else ''}.")
        for product in self.products():
            if product.training is None and any(QAT in expand_braces(word) for word in product.methods):
                raise ValueError(f"the method {QAT} wants to know how it trains. Add the field 'training', with text and steps.")
        return self

    @property
    def source(self) -> Path:
        """The file that the grid came from; relative paths start in its folder."""
        return self._source

    def products(self) -> list[Product]:
        """A product for each part, what the part leaves out filled in; the grid itself where it has no parts."""
        own = {name: getattr(self, name) for name in Part.model_fields}
        own |= {"formats": self.formats or [], "recipes": self.recipes or {}}
        return [
            Product(**own | {name: value for name in own if (value := getattr(part, name)) is not None})
            for part in self.parts or [Part()]
        ]


def read_grid(path: Path) -> Grid:
    """The grid of a YAML file.

    Raises StoreError, one line that names file, line and field, where the file cannot be read, is no YAML, or says what a grid
    cannot.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StoreError(
            f"grid {path}: cannot be read ({reason}). Name a YAML file that says models, formats and protocols."
        ) from None
    data, node = _parse(path, text)
    try:
        grid = Grid.model_validate(data)
    except ValidationError as error:
        raise StoreError(_first_fault(path, node, error)) from None
    grid._source = path
    return grid


def _parse(path: Path, text: str) -> tuple[Any, yaml.Node]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise StoreError(f"grid {path}: a grid is a mapping with the fields {', '.join(Grid.model_fields)}.")
        _refuse_repeated_keys(path, node)
        return loader.construct_document(node), node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        hint = " Put strings with braces in quotes: 'int{2..8}-b64'." if "{" in text else ""
        raise StoreError(f"grid {path}, line {line}: no YAML ({error.problem}).{hint}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2020-99-99
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"grid {path}: no YAML ({reason}). Mend the file.") from None
    finally:
        loader.dispose()


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    """YAML lets a second `formats:` silently replace the first; half a study would be lost."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise StoreError(
                    f"grid {path}, line {line}: the field '{key.value}' stands here a second time. Keep one of them."
                )
            seen.add(str(key.value))
            if value.start_mark.index > node.start_mark.index:  # an alias points back: its anchor was seen already
                _refuse_repeated_keys(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if item.start_mark.index > node.start_mark.index:
                _refuse_repeated_keys(path, item)


def _first_fault(path: Path, node: yaml.Node, error: ValidationError) -> str:
    fault = error.errors()[0]
    place = list(fault["loc"])
    field = ".".join(str(part) for part in place if isinstance(part, str))
    where = f"grid {path}, line {_line(node, place)}"
    if fault["type"] == "missing":  # of a protocol: a grid's own fields may be those of its parts
        return f"{where}: the field '{field}' is missing. Add it."
    if fault["type"] == "extra_forbidden":
        kinds: dict[str, type[BaseModel]] = {"protocols": GridProtocol, "training": GridTraining, "parts": Part}
        owner = next((kind for name, kind in kinds.items() if name in place[:-1]), Grid)
        near, known = _nearest(str(place[-1]), owner.model_fields), ", ".join(owner.model_fields)
        return f"{where}: there is no field '{field}'{near}. There are {known}."
    if fault["type"] == "too_short":
        return f"{where}: {field}: it is empty. Name at least one."
    reason = fault["msg"].removeprefix("Value error, ").removesuffix(".")
    got = "" if fault["type"] == "value_error" else f", not {reprlib.repr(fault['input'])}"
    return f"{where}: {field}{': ' if field else ''}{' '.join((reason + got).split())}."


def _line(node: yaml.Node, place: list[Any]) -> int:
    """Line, from 1, of the deepest node on the way to `place` that the file has."""
    line = node.start_mark.line + 1
    for part in place:
        children: dict[Any, tuple[int, yaml.Node]] = {}
        if isinstance(node, yaml.MappingNode):
            children = {key.value: (key.start_mark.line + 1, value) for key, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            children = {index: (item.start_mark.line + 1, item) for index, item in enumerate(node.value)}
        if part not in children:
            break
        line, node = children[part]
    return line

"""`@verb(RestoreJob)`: a command whose options are the fields of a job, so that field, help and option are said once.

The function gets the job, and as further parameters the options that are the command's alone:

    @verb(RestoreJob, without=("ray_address", "deadline_s"))
    def plan(job: RestoreJob, as_json: Json = False) -> None: ...
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from hypermend.pipeline.cli.app import ARCHIVE_VARIABLE, app
from hypermend.pipeline.config import Job, Option, Settings, load_job, owner_of, parse

J = TypeVar("J", bound=Settings)
P = ParamSpec("P")
FILE = "job"
"""Name of the argument that takes a job file."""


def verb(
    kind: type[J],
    *,
    file: Literal["no", "optional", "required"] = "optional",
    file_help: str = "A TOML job; options given beside it win over it.",
    only: Collection[str] | None = None,
    without: Collection[str] = (),
) -> Callable[[Callable[Concatenate[J, P], None]], Callable[Concatenate[J, P], None]]:
    """Register a function as a verb of the command, named as the function, with its docstring as the help.

    Args:
        kind: the job that the function takes first.
        file: whether the job may or must come from a TOML file, which is then the argument.
        file_help: help of that argument.
        only: fields that are options; None for all.
        without: fields that are none.
    """
    fields = {
        name: field
        for name, field in sorted(kind.model_fields.items(), key=lambda item: _is_general(item[0]))
        if (only is None or name in only) and name not in without and _declaration(name, field).name is not None
    }

    def register(function: Callable[Concatenate[J, P], None]) -> Callable[Concatenate[J, P], None]:
        name = function.__name__
        _, *further = inspect.signature(function, eval_str=True).parameters.values()

        def command(**values: Any) -> None:
            path = values.pop(FILE, None)
            given = {key: value for key in fields if (value := values.pop(key)) not in (None, [])}
            default = os.environ.get(ARCHIVE_VARIABLE) if kind.model_fields["archive"].is_required() else None
            known = {"archive": default} if default else {}
            if path is None:
                job = parse(kind, known | given, where=f"options of {name}")
            else:
                job = load_job(path, kind, defaults=known, **given)
            function(job, **values)  # type: ignore[call-arg]

        parameters = [
            *_file_argument(file, file_help),
            *(_option(key, field, optional=file != "no") for key, field in fields.items()),
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in further),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=inspect.getdoc(function))(command)
        return function

    return register


def _is_general(name: str) -> bool:
    """Whether every job has the field: the help lists the archive, the fields of this kind of job, then these."""
    return name in Job.model_fields and name != "archive"


def _file_argument(file: str, help: str) -> Iterator[inspect.Parameter]:
    if file == "required":
        yield _parameter(FILE, Path, typer.Argument(..., help=help))
    if file == "optional":
        yield _parameter(FILE, Path | None, typer.Argument(None, help=help))


def _option(name: str, field: FieldInfo, *, optional: bool) -> inspect.Parameter:
    """Return the parameter from which Typer makes a field's option; ``optional`` where a job file may set the field.

    Its default is None, for "not given": an option that is not given must not win over the job file.
    """
    required = field.is_required() and not optional
    declaration = _declaration(name, field)
    kind = str if declaration.text else _parsed_as(_without_none(field.annotation))
    option = typer.Option(
        ... if required else None,
        str(declaration.name),
        envvar=ARCHIVE_VARIABLE if required and name == "archive" else None,  # a job file comes before it
        show_envvar=False,
        metavar=declaration.metavar or _choices(field),
        help=_help(field),
    )
    return _parameter(name, kind if required else kind | None, option)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _declaration(name: str, field: FieldInfo) -> Option:
    """Return the option's name; a field that may be None, true or false has one for true and one for false."""
    for extra in field.metadata:
        if isinstance(extra, Option):
            return extra
    option = f"--{name.replace('_', '-')}"
    return Option(f"{option}/--no-{option[2:]}" if field.annotation == bool | None else option)


def _without_none(annotation: Any) -> Any:
    """``X | None`` as ``X``."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    (kind,) = (part for part in get_args(annotation) if part is not NoneType)
    return kind


def _parsed_as(kind: Any) -> Any:
    """Return the type that Typer parses. The job checks the choices of a Literal, so that its error is one line."""
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0])
    if _is_repeatable(kind):
        return list[get_args(kind)[0]]  # type: ignore[misc]
    return kind


def _is_repeatable(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


def _choices(field: FieldInfo) -> str | None:
    kind = _without_none(field.annotation)
    return "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else None


def _help(field: FieldInfo) -> str:
    """Return the field's description, and what follows from its type and its default."""
    owner = owner_of(field)
    parts = [field.description or ""] if owner is None else [f"{owner.task.capitalize()}:", field.description or ""]
    if _is_repeatable(field.annotation):
        parts.append("Repeatable.")
    if not field.is_required() and field.default not in (None, ()) and field.default is not False:
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        parts.append(f"Default: {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}.")
    return " ".join(parts)

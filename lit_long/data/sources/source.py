"""One entry of ``sources:`` in the YAML of ``lit-long prepare``."""

from dataclasses import dataclass, fields
from typing import Literal

from lit_long.data.sources.files import base_name
from lit_long.errors import UserError

# Source code and the text that goes with it. Data files (json, csv, svg, lock files) are left out: they are long, and
# seldom written by people.
_CODE = """
.adb .adoc .ads .asm .awk .bash .bat .c .cc .clj .cljs .cmake .coffee .cpp .cs .css .cu .cuh .cxx .d .dart .el .elm
.erl .ex .exs .f .f90 .f95 .fs .fsx .glsl .go .gradle .graphql .groovy .h .hh .hpp .hrl .hs .html .hxx .idr .java .jl
.js .jsx .kt .kts .less .lisp .lua .m .md .mjs .ml .mli .mm .nim .nix .org .pas .php .pl .pm .pro .proto .ps1 .py .pyi
.pyx .r .rb .rkt .rs .rst .s .sass .scala .scm .scss .sh .sol .sql .sv .svelte .swift .tcl .tex .tf .thrift
.toml .ts .tsx .txt .v .vb .vhd .vhdl .vim .vue .yaml .yml .zig .zsh makefile dockerfile readme license
"""
CODE_SUFFIXES = tuple(_CODE.split())


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where documents come from; exactly one of ``path`` and ``hub``.

    Args:
        path: a file (.txt, .md, .jsonl, .jsonl.gz, .jsonl.zst, .parquet) or a directory of such files, read recursively
            in the order of their paths.
        hub: id of a dataset on the Hugging Face Hub, streamed.
        subset: the Hub dataset's configuration, where it has several.
        split: split of the Hub dataset.
        revision: branch, tag or commit of the Hub dataset.
        max_documents: stop after so many rows of the Hub dataset.
        kind: how ``path`` is read. files (or auto): as above; repository: the directory is one code repository and one
            document; repositories: each directory in it is one.
        file_suffixes: endings of the names (upper or lower case) of the files that a repository's document takes in;
            other files are counted and left out.
        max_file_bytes: a file of a repository that is larger is counted and left out (it is data or generated).
        text_field: name of the text in JSON lines, Parquet and Hub datasets.
        id_field: name of the document's id there; null: number the documents by their place.
        name: the name under which the documents are counted; default: the file's or dataset's name. If given, ids made
            of a document's place begin with it.
        license: licence of the documents that do not bring one in a field ``license``.
    """

    path: str | None = None
    hub: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    max_documents: int | None = None
    kind: Literal["auto", "files", "repository", "repositories"] = "auto"
    file_suffixes: tuple[str, ...] = CODE_SUFFIXES
    max_file_bytes: int = 1 << 20
    text_field: str = "text"
    id_field: str | None = "id"
    name: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.hub is None):
            found = "both" if self.path is not None else "neither"
            raise UserError(f"a source needs exactly one of path and hub; found {found}")
        if self.kind not in ("auto", "files", "repository", "repositories"):
            raise UserError(f"source {self.place}: kind {self.kind!r}; give auto, files, repository or repositories")
        if self.hub is not None and self.kind != "auto":
            raise UserError(f"source {self.hub}: kind {self.kind!r} is for a path; leave it out with hub")
        if self.path is not None and (given := self._given("subset", "split", "revision", "max_documents")):
            raise UserError(f"source {self.path}: {given} is for hub, not for a path")
        if self.kind not in ("repository", "repositories") and (
            given := self._given("file_suffixes", "max_file_bytes")
        ):
            raise UserError(f"source {self.place}: {given} is for kind: repository or repositories, found {self.kind}")
        for key in ("max_documents", "max_file_bytes"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"source {self.place}: {key} is {value}; give 1 or more")

    def _given(self, *keys: str) -> str:
        """Those of the keys that do not have their default."""
        defaults = {field.name: field.default for field in fields(self)}
        return ", ".join(key for key in keys if getattr(self, key) != defaults[key])

    @property
    def place(self) -> str:
        """The path or dataset id, as given."""
        return self.hub if self.hub is not None else str(self.path)

    @property
    def label(self) -> str:
        """The name under which the documents are counted."""
        return self.name or (self.hub if self.hub is not None else base_name(str(self.path)))

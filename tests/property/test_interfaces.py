"""What stands twice because C and Python cannot share it: struct fields, numbers, signatures."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import shmq.kernels
from shmq.layout import control, cqentry, indexfile, record, ring
from shmq.wire import header

FOLDER = Path(shmq.kernels.__file__).parent
KERNELS = sorted(path.stem for path in FOLDER.glob("*.pyi"))
INTERNAL = "requestheader"  # used by other kernels alone, through its .pxd
TYPES = {"int32_t": np.dtype("i4"), "int64_t": np.dtype("i8"), "uint64_t": np.dtype("u8")}

# Names of the kernels' constants, where another name stands in the layout.
RENAMED = {
    "BLANK_SIZE": record.BLANK_HEAD_SIZE,
    "SYS_FLAG_BORN_V6": record.BORN_HOST_V6,
    "SYS_FLAG_STORE_V6": record.STORE_HOST_V6,
    "TOPIC_SIZE_MAX": record.TOPIC_SIZE_MAX_V1,
    "LANGUAGE_PYTHON": header.LANGUAGE_BYTES[header.OUR_LANGUAGE],
    "PROPERTIES_SIZE_MAX": record.PROPERTIES_SIZE_MAX,
}
# Names that mean something else in each kernel.
OWN = {
    "sends": {"ENTRY_SIZE": ring.ENTRY.itemsize},
    "dispatch": {"ENTRY_SIZE": cqentry.ENTRY_SIZE},
    "takes": {"ENTRY_SIZE": cqentry.ENTRY_SIZE},
    "indexing": {
        name: getattr(indexfile, name)
        for name in ("HEADER_SIZE", "SLOT_SIZE", "ENTRY_SIZE", "SECONDS_MAX")
    },
    "answers": {"VERSION": header.OUR_VERSION},
    "pulls": {"VERSION": header.OUR_VERSION, "ENTRY_SIZE": cqentry.ENTRY_SIZE},
}


def struct_fields(name: str, text: str) -> np.dtype[np.void]:
    """Layout that a C compiler gives to a struct of a .pxd."""
    body = re.search(rf"cdef struct {name}:\n((?:    .+\n)+)", text)
    assert body is not None
    lines = [line.split("#")[0].split() for line in body[1].splitlines()]
    return np.dtype([(field, TYPES[kind]) for kind, field in lines], align=True)


@pytest.mark.parametrize(
    ("name", "expected"), [("Entry", ring.ENTRY), ("Completion", ring.COMPLETION)]
)
def test_structs_of_the_ring_are_those_of_the_layout(
    name: str, expected: np.dtype[np.void]
) -> None:
    found = struct_fields(name, (FOLDER / "ringparts.pxd").read_text())
    assert found.fields == expected.fields
    assert found.itemsize == expected.itemsize


def declared_numbers(kernel: str) -> dict[str, int]:
    """Constants of a kernel's source: `NAME = cython.declare(type, value)`."""
    numbers: dict[str, int] = {}
    for node in ast.parse((FOLDER / f"{kernel}.py").read_text()).body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=name)],
                value=ast.Call(func=ast.Attribute(attr="declare"), args=[_, value]),
            ):
                numbers[name] = eval(ast.unparse(value), {})  # noqa: S307  our own source
    return numbers


@pytest.mark.parametrize("kernel", KERNELS)
def test_numbers_are_those_of_the_layouts(kernel: str) -> None:
    numbers = declared_numbers(kernel)
    known: dict[str, object] = {**OWN.get(kernel, {}), **RENAMED}
    for module in (record, ring, control):
        known |= {name: value for name, value in vars(module).items() if name not in known}
    compared = {name: value for name, value in numbers.items() if name in known}
    assert compared == {name: known[name] for name in compared}
    if kernel in {"append", "walk", "survey", "answers", "sends", "pulls", "indexing"}:
        assert len(compared) >= 3


def test_fixed_size_of_a_record() -> None:
    sizes = record.RECORD_SIZE_MIN - 2 * (record.IPV4_SIZE + 4)
    assert declared_numbers("sends")["RECORD_FIXED_SIZE"] == sizes


def test_descriptor_fields_lie_where_the_kernels_write_them() -> None:
    """append.describe() and dispatch.dispatch() count in cells of 8 bytes and halves of 4."""
    assert control.DESCRIPTOR.fields is not None
    places = {name: field[1] for name, field in control.DESCRIPTOR.fields.items()}
    assert places == {
        "physical_offset": 8 * 0,
        "size": 4 * 2,
        "slot": 4 * 3,
        "queue_offset": 8 * 2,
        "tags_code": 8 * 3,
        "store_timestamp": 8 * 4,
        "ring_sequence": 8 * 5,
        "ring": 4 * 12,
        "remaining": 4 * 13,
        "epoch": 8 * 7,
    }


Signatures = dict[str, list[str]]


def parameters(node: ast.FunctionDef) -> list[str]:
    """Parameters by name, in their order; '*' before those that must be named."""
    given = node.args
    names = [argument.arg for argument in [*given.posonlyargs, *given.args]]
    if given.kwonlyargs:
        names += ["*", *(argument.arg for argument in given.kwonlyargs)]
    return names + ([f"**{given.kwarg.arg}"] if given.kwarg else [])


def signatures(path: Path) -> Signatures:
    """Public functions and methods of a source or stub, with their parameters."""
    found: Signatures = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    found[f"{node.name}.{part.name}"] = parameters(part)
            if f"{node.name}.__cinit__" in found:
                made = found.pop(f"{node.name}.__cinit__")
                found.setdefault(f"{node.name}.__init__", made)
    return found


def public(found: Signatures) -> Signatures:
    """Those that a stub names."""
    return {
        name: names
        for name, names in found.items()
        if not name.split(".")[-1].startswith("_") or name.endswith("__init__")
    }


def module_of(kernel: str) -> ModuleType:
    return importlib.import_module(f"shmq.kernels.{kernel}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_stub_says_what_the_kernel_has(kernel: str) -> None:
    stub = signatures(FOLDER / f"{kernel}.pyi")
    source = signatures(FOLDER / f"{kernel}.py")
    module = module_of(kernel)
    assert str(module.__file__).endswith(".so"), "compiled"
    for name, names in stub.items():
        owner, _, attribute = name.rpartition(".")
        assert hasattr(getattr(module, owner) if owner else module, attribute), name
        if name in source:  # else it is a property of a C field
            assert names == source[name], name
    for node in ast.parse((FOLDER / f"{kernel}.pyi").read_text()).body:
        if isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            assert node.target.id == "Memory" or hasattr(module, node.target.id)


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != INTERNAL])
def test_a_twin_has_the_same_interface(kernel: str) -> None:
    stub = public(signatures(FOLDER / f"{kernel}.pyi"))
    twin = signatures(FOLDER / f"{kernel}_plain.py")
    module = module_of(f"{kernel}_plain")
    assert stub
    for name, names in stub.items():
        owner, _, attribute = name.rpartition(".")
        if name not in twin:  # the stub's properties are plain attributes of the twin
            assert names == ["self"], name
            assert f"self.{attribute} = " in (FOLDER / f"{kernel}_plain.py").read_text()
        elif twin[name][-1:] == ["**fields"]:
            assert twin[name][:-1] == names[: names.index("*")], name
        else:
            assert twin[name] == names, name
            assert hasattr(getattr(module, owner) if owner else module, attribute)


def test_every_kernel_has_a_stub_and_a_twin() -> None:
    sources = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    twins = {name.removesuffix("_plain") for name in sources if name.endswith("_plain")}
    kernels = {name for name in sources if not name.endswith("_plain")}
    assert kernels == set(KERNELS)
    assert kernels == twins

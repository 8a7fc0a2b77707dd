"""The stubs say what the compiled half has."""

import ast
import inspect
import pathlib

import tensorferry
from tensorferry import _native


def test_stubs_have_what_there_is_and_nothing_else():
    text = pathlib.Path(tensorferry.__file__).with_name("_native.pyi").read_text()
    told = {it.name: it for it in ast.parse(text).body if isinstance(it, (ast.ClassDef, ast.FunctionDef))}
    there = {name: it for name, it in vars(_native).items() if not name.startswith("_")}
    assert told.keys() == there.keys()
    for name, it in there.items():
        if not inspect.isclass(it):
            continue
        members = {member.name for member in told[name].body if isinstance(member, ast.FunctionDef)}
        missing = {member for member in vars(it) if not member.startswith("_")} - members
        assert not missing, f"{name} has {missing}"
        for member in members:
            assert hasattr(it, member), f"{name} has no {member}"


def test_everything_public_is_documented():
    for name in tensorferry.__all__:
        assert getattr(tensorferry, name).__doc__, name

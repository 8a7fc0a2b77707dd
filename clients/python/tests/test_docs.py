"""Every block of Python in the documents runs."""

import re

import pytest

from conftest import ROOT

BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in (ROOT / "docs/PYTHON.md", ROOT / "clients/python/README.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_run(block, server):
    text = re.sub(r"127\.0\.0\.1:7077", server.address, block)
    assert text != block, "an example names no server"
    exec(compile(text, "example", "exec"), {"__name__": "example"})

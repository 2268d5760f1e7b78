"""How many bits the base is loaded in, as it is asked for on the command line."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from rightrank.arguments import bits
from rightrank.errors import ConfigurationError


def test_options_as_a_request_takes_them():
    assert [bits(False, False), bits(True, False), bits(False, True)] == [None, "4-bit", "8-bit"]
    with pytest.raises(ConfigurationError, match="4 bits or in 8"):
        bits(True, True)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_base_in_4_bits_is_planned_with(run, model, rows):
    said = run(model, rows, "--load-in-4bit", "--dry-run", "--budget", 5)
    assert said.code == 0
    assert "weights in 4-bit NF4, packed rows" in said.err
    assert "kernels" not in said.err, "bitsandbytes' advice is not the person's business"

"""What processes exchange is read from the program that XLA compiled for them."""

from __future__ import annotations

from benchmarks.scaling import exchanged_bytes

HLO = """
  %x = f32[8,4]{1,0} parameter(0)
  %all-reduce.1 = (f32[3,2]{1,0}, /*index=1*/bf16[5]{0}) all-reduce(%a, %b), replica_groups={{0,1}}, to_apply=%sum
  ROOT %all-gather.2 = s32[4]{0} all-gather(%c), dimensions={0}
  %all-reduce-start = f32[] all-reduce-start(%loss), to_apply=%sum
"""


def test_bytes_of_every_result_of_a_collective_operation_are_counted():
    assert exchanged_bytes(HLO) == {"all-reduce": 3 * 2 * 4 + 5 * 2 + 4, "all-gather": 16}
    assert exchanged_bytes("%x = f32[8] add(%a, %b)") == {}

"""Compiled texts, read: traffic and loops against counts by hand, of three compilers.

The texts of TPU and CUDA are cut from what those compilers wrote.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from unlearn_jax import targets
from unlearn_jax.types import InputError

TPU = """HloModule jit_f, is_scheduled=true

%fused_computation (param_0: bf16[50,16,16,512], param_1: s32[8]) -> bf16[8,16,16,512] {
  %param_0 = bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = s32[8]{0:T(128)} parameter(1)
  ROOT %gather.1 = bf16[8,16,16,512]{3,2,1,0:T(8,128)(2,1)} gather(%param_0, %param_1), offset_dims={1,2,3}
}

%body (arg: (s32[], f32[1024,1024], bf16[50,16,16,512], s32[8])) -> (s32[], f32[1024,1024], bf16[50,16,16,512], s32[8]) {
  %arg = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)}, /*index=3*/s32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %k = f32[1024,1024]{1,0:T(8,128)S(1)} get-tuple-element(%arg), index=1
  %x = bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%arg), index=2
  %rows = s32[8]{0:T(128)} get-tuple-element(%arg), index=3
  %fusion.1 = bf16[8,16,16,512]{3,2,1,0:T(8,128)(2,1)} fusion(%x, %rows), kind=kCustom, calls=%fused_computation, backend_config={"window_config":{"estimated_cycles":"100"}}
  %all-reduce.1 = f32[1024,1024]{1,0:T(8,128)} all-reduce(%k), replica_groups={{0,1}}, to_apply=%add
  %copy.1 = f32[1024,1024]{0,1:T(8,128)} copy(%all-reduce.1)
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)}, /*index=3*/s32[8]{0:T(128)}) tuple(%next, %k, %x, %rows)
}

%condition (arg.1: (s32[], f32[1024,1024], bf16[50,16,16,512], s32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  %arg.1 = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)}, /*index=3*/s32[8]{0:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (k: f32[1024,1024], x: bf16[50,16,16,512], rows: s32[8]) -> s32[] {
  %zero = s32[]{:T(128)} constant(0)
  %k.1 = f32[1024,1024]{1,0:T(8,128)S(1)} parameter(0)
  %x.1 = bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %rows.1 = s32[8]{0:T(128)} parameter(2)
  %a = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)}, /*index=3*/s32[8]{0:T(128)}) tuple(%zero, %k.1, %x.1, %rows.1)
  %while = (s32[]{:T(128)}, f32[1024,1024]{1,0:T(8,128)S(1)}, bf16[50,16,16,512]{3,2,1,0:T(8,128)(2,1)}, /*index=3*/s32[8]{0:T(128)}) while(%a), condition=%condition, body=%body
  ROOT %r = s32[]{:T(128)} get-tuple-element(%while), index=0
}
"""  # noqa: E501
CUDA = """HloModule jit_g, num_partitions=2

%body.2 (arg: (f32[4,64], f64[2])) -> (f32[4,64], f64[2]) {
  %arg = (f32[4,64]{1,0}, f64[2]{0}) parameter(0)
  %x = f32[4,64]{1,0} get-tuple-element(%arg), index=0
  %d = f64[2]{0} get-tuple-element(%arg), index=1
  %cudnn-conv.1 = (f32[4,64]{1,0}, u8[0]{0}) custom-call(%x, %x), window={size=3x3 lhs_dilate=2x2}, dim_labels=b01f_o01i->b01f, feature_group_count=8, custom_call_target="__cudnn$convForward"
  %call.1 = f32[4,64]{1,0} custom-call(%x), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %tuple = (f32[4,64]{1,0}, f64[2]{0}) tuple(%call.1, %d)
}

ENTRY %main.2 (x: f32[4,64]) -> f32[4,64] {
  %x.1 = (f32[4,64]{1,0}, f64[2]{0}) parameter(0)
  %while.1 = (f32[4,64]{1,0}, f64[2]{0}) while(%x.1), condition=%unknown, body=%body.2, backend_config={"known_trip_count":{"n":"5"}}
  %ag = f32[8,64]{1,0} all-gather(%x.1), dimensions={0}
  ROOT %o = f32[4,64]{1,0} get-tuple-element(%while.1), index=0
}
"""  # noqa: E501


def test_a_tpu_text_is_counted_as_by_hand():
    found = targets.read_hlo(TPU)
    kernel = 4 * 1024**2
    batch = 2 * 8 * 16 * 16 * 512
    # the gather reads a batch of the data and its rows; the kernel is near the cores
    per_step = (2 * batch + 8 * 4) + kernel + 2 * kernel + 3 * 4
    assert found.traffic == 8 * per_step
    assert found.copied == 8 * 2 * kernel
    assert found.collectives == {"all-reduce": (8, 8 * kernel)}
    assert found.exchanged == 8 * kernel
    assert found.cycles == 800
    # a batch is less than half of the data
    assert found.gathered == 0
    assert found.loops == found.branches == 0
    assert found.warnings(is_tpu=True) == ["50% of traffic is copies"]


def test_a_cuda_text_warns_of_what_is_slow():
    found = targets.read_hlo(CUDA)
    array = 4 * 64 * 4
    # an operand that is given twice is read once
    assert found.traffic == 5 * (2 * array + 2 * array) + (array + 2 * 8 + 2 * array)
    assert (found.convolutions, found.grouped, found.transposed) == (1, 1, 1)
    assert found.callbacks == 1
    warnings = " ".join(found.warnings())
    for word in ("1 of 1 convolutions grouped", "float64", "1 calls of the host"):
        assert word in warnings
    assert found.collectives == {"all-gather": (1, array)}


LOOP = """HloModule jit_loop

%body (arg: (s32[], f32[1024,1024], s32[])) -> (s32[], f32[1024,1024], s32[]) {{
  %two = s32[] constant(2)
  %arg = (s32[], f32[1024,1024], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %copied = s32[] copy(%i)
  %x = f32[1024,1024] get-tuple-element(%arg), index=1
  %most = s32[] get-tuple-element(%arg), index=2
  %y = f32[1024,1024] sine(%x)
  %next = s32[] {step}
  ROOT %t = (s32[], f32[1024,1024], s32[]) tuple(%next, %y, {passed})
}}

%fused (first: s32[], second: s32[]) -> pred[] {{
  %first = s32[] parameter(0)
  %second = s32[] parameter(1)
  ROOT %less = pred[] compare(%first, %second), direction=LT
}}

%condition (arg.1: (s32[], f32[1024,1024], s32[])) -> pred[] {{
  %limit = s32[] constant(1000)
  %arg.1 = (s32[], f32[1024,1024], s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %most.1 = s32[] get-tuple-element(%arg.1), index=2
  ROOT %lt = pred[] {condition}
}}

ENTRY %main (x: f32[1024,1024], s: s32[]) -> f32[1024,1024] {{
  %x.1 = f32[1024,1024] parameter(0)
  %s = s32[] parameter(1)
  %from = s32[] constant(990)
  %to = s32[] constant(1010)
  %begin = s32[] copy({start})
  %a = (s32[], f32[1024,1024], s32[]) tuple(%begin, %x.1, %to)
  %while = (s32[], f32[1024,1024], s32[]) while(%a), condition=%condition, body=%body
  ROOT %r = f32[1024,1024] get-tuple-element(%while), index=1
}}
"""
IN_ORDER = "compare(%i.1, %limit), direction=LT"
OF_ARGUMENT = "fusion(%i.1, %most.1), kind=kLoop, calls=%fused"


@pytest.mark.parametrize(
    ("trips", "changes"),
    [
        (5, {}),
        (10, {"condition": OF_ARGUMENT}),
        (None, {"condition": OF_ARGUMENT, "passed": "%next"}),
        (None, {"start": "%s"}),
        (None, {"step": "multiply(%i, %two)"}),
        (None, {"step": "select(%p, %most, %copied)"}),
        (None, {"condition": "compare(%i.1, %limit), direction=GT"}),
    ],
)
def test_a_loop_counts_if_its_counter_has_a_start_a_step_and_a_limit(trips, changes):
    parts = {
        "step": "add(%copied, %two)",
        "passed": "%most",
        "condition": IN_ORDER,
        "start": "%from",
    }
    found = targets.read_hlo(LOOP.format(**(parts | changes)))
    assert found.loops == (trips is None)
    sine = 2 * 4 * 1024**2
    assert found.traffic // sine == (trips or 1)


@pytest.mark.parametrize(
    ("kind", "result", "sent"),
    [
        ("all-reduce", 4, 2 * 4 * 3 / 4),
        ("all-gather", 16, 16 * 3 / 4),
        ("reduce-scatter", 1, 1 * 3),
        ("collective-permute", 4, 4),
    ],
)
@pytest.mark.parametrize("groups", ["replica_groups={{0,1,2,3}}", "", "[1,4]<=[4]"])
def test_a_collective_sends_as_much_whether_it_waits_or_not(kind, result, sent, groups):
    """``result`` and ``sent`` are in MiB; the operand has four."""
    if groups.startswith("["):
        groups = f"replica_groups={groups}"
    text = f"""HloModule jit_c, num_partitions=4

ENTRY %main (x: f32[1024,1024]) -> f32[{result},512,512] {{
  %x = f32[1024,1024] parameter(0)
  %now = f32[{result},512,512] {kind}(%x), {groups}
  %begun = (f32[1024,1024], f32[{result},512,512]) {kind}-start(%x), {groups}
  ROOT %end = f32[{result},512,512] {kind}-done(%begun)
}}
"""
    assert targets.read_hlo(text).collectives == {kind: (2, 2 * sent * 2**20)}


def test_a_slice_is_updated_in_place_only_if_it_is_the_result():
    text = """HloModule jit_u

%fused (x: f32[1024,1024], u: f32[1,1024], i: s32[]) -> f32[1024,1024] {{
  %x = f32[1024,1024] parameter(0)
  %u = f32[1,1024] parameter(1)
  %i = s32[] parameter(2)
  %new = f32[1024,1024] dynamic-update-slice(%x, %u, %i, %i)
  ROOT %r = f32[1024,1024] {root}(%new{second})
}}

ENTRY %main (x.1: f32[1024,1024], u.1: f32[1,1024], i.1: s32[]) -> f32[1024,1024] {{
  %x.1 = f32[1024,1024] parameter(0)
  %u.1 = f32[1,1024] parameter(1)
  %i.1 = s32[] parameter(2)
  ROOT %f = f32[1024,1024] fusion(%x.1, %u.1, %i.1), kind=kLoop, calls=%fused
}}
"""
    row = 4 * 1024
    whole = 1024 * row
    in_place = targets.read_hlo(text.format(root="bitcast", second=""))
    assert in_place.traffic == 2 * row + 4
    other = targets.read_hlo(text.format(root="add", second=", %new"))
    assert other.traffic == 2 * whole + row + 4


def test_an_operand_is_read_as_its_widest_reader_reads_it():
    text = """HloModule jit_s

%fused (x: u8[1024,4096]) -> f32[1024,1024] {{
  %x = u8[1024,4096] parameter(0)
  %wide = f32[1024,4096] convert(%x)
  %part = f32[1024,1024] slice(%wide), slice={{[0:1024], [0:1024]}}
  %b = u8[4096,1024] bitcast(%x)
  %more = u8[1024,1024] {other}(%b), slice={{[0:1024], [0:1024]}}
  ROOT %r = f32[1024,1024] add(%part, %more)
}}

ENTRY %main (x.1: u8[1024,4096]) -> f32[1024,1024] {{
  %x.1 = u8[1024,4096] parameter(0)
  ROOT %f = f32[1024,1024] fusion(%x.1), kind=kLoop, calls=%fused
}}
"""
    quarter = 1024**2
    sliced = targets.read_hlo(text.format(other="slice"))
    assert sliced.traffic == 2 * quarter + 4 * quarter
    whole = targets.read_hlo(text.format(other="reduce"))
    assert whole.traffic == 4 * quarter + 4 * quarter


def test_loops_of_this_compiler_are_counted():
    def program(x):
        x = lax.fori_loop(0, 6, lambda _, y: jnp.sin(y @ y), x)
        return lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x)

    compiled = jax.jit(program).lower(jnp.ones((256, 256))).compile()
    found = targets.read_hlo(compiled.as_text())
    array = 4 * 256**2
    assert found.loops == 1
    # six products and sines, one product of the loop of unknown length, and copies
    least = 6 * (2 + 2) + 2
    assert least * array <= found.traffic <= 2 * least * array


def test_of_branches_the_cheapest_is_counted():
    """A bound is not above what a step without the dear branch takes."""

    def program(x, is_due):
        return lax.cond(is_due, lambda y: jnp.sin(y @ y) @ y, lambda y: y, x)

    arguments = (jnp.ones((512, 512)), jnp.asarray(True))
    found = targets.read_hlo(jax.jit(program).lower(*arguments).compile().as_text())
    array = 4 * 512**2
    assert found.branches == 1
    # a copy at most: both products would move six arrays
    assert found.traffic <= 4 * array
    assert "1 branches, the cheapest counted" in found.warnings()


def test_gathers_of_whole_data_and_copies_in_kernels_are_seen():
    text = """HloModule jit_h

%fused (param_0: f32[2048,1024]) -> f32[1024,2048] {
  %param_0 = f32[2048,1024]{1,0} parameter(0)
  ROOT %t = f32[1024,2048]{1,0} transpose(%param_0), dimensions={1,0}
}

ENTRY %main.3 (x: f32[4096,2048], i: s32[4000,1], y: f32[2048,1024]) -> f32[1024,2048] {
  %x = f32[4096,2048]{1,0} parameter(0)
  %i = s32[4000,1]{1,0} parameter(1)
  %y = f32[2048,1024]{1,0} parameter(2)
  %g = f32[4000,2048]{1,0} gather(%x, %i), offset_dims={1}
  ROOT %f = f32[1024,2048]{1,0} fusion(%y), kind=kLoop, calls=%fused
}
"""
    found = targets.read_hlo(text)
    assert found.gathered == 4000 * 2048 * 4
    assert found.copied == 2 * 2048 * 1024 * 4
    assert "a gather of 31 MiB, whole data" in found.warnings()


def test_the_bound_is_the_largest_part():
    chip = targets.CHIPS["TPU v5 lite"]
    by_memory = targets.bound(chip, bfloat16=197e9, traffic=8.19e9)
    assert by_memory.seconds == pytest.approx(0.01)
    assert by_memory.limit == "memory"
    assert by_memory.mfu == pytest.approx(0.1)
    by_links = targets.bound(chip, bfloat16=197e9, exchanged=2e9)
    assert (by_links.limit, by_links.seconds) == ("network", pytest.approx(0.01))
    gpu = targets.CHIPS["NVIDIA H100 80GB HBM3"]
    mixed = targets.bound(gpu, bfloat16=989.4e12, float32=494.7e12)
    assert mixed.compute == pytest.approx(2.0)
    assert targets.bound(gpu).mfu == 0.0


def test_peak_flops_by_device():
    assert targets.peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert targets.peak_flops("NVIDIA A100-PCIE-40GB", "float32") == 156e12
    assert targets.peak_flops("TPU v5 lite", "bfloat16") == 197e12
    assert targets.peak_flops("TPU v5p", "bfloat16") == 459e12
    assert targets.chip("NVIDIA A100-SXM4-40GB").memory < 40 * 2**30
    for unknown in (
        "cpu",
        "NVIDIA GeForce RTX 4080 SUPER",
        "TPU v5 litepod",
        "NVIDIA H100 NVL",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    ):
        assert targets.peak_flops(unknown, "bfloat16") is None
    for chip in targets.CHIPS.values():
        assert 0 < chip.float32 <= chip.bfloat16
        assert min(chip.memory, chip.bandwidth, chip.links) > 0


def test_targets_by_name():
    assert targets.parse("tpu-v4:2x2x1").shape == (2, 2, 1)
    assert targets.parse("h100:8").kind == "NVIDIA H100 80GB HBM3"
    assert targets.parse("cpu").devices == tuple(jax.local_devices()[:1])
    for wrong in ("tpu-v9:2x2", "tpu-v5e:2", "h100:2x2", "b200", "cpu:0", "", None):
        with pytest.raises(InputError, match="unknown target"):
            targets.parse(wrong)
    with pytest.raises(InputError, match="99 CPU devices asked for, 8 present"):
        _ = targets.parse("cpu:99").devices


def test_forms_are_the_targets(monkeypatch):
    from unlearn_jax import models, replicas

    assert targets.platform() == "cpu"
    assert models.convolution_form() != "lax"
    with targets.use(targets.parse("h100")):
        # its devices are not asked for
        assert targets.platform() == "gpu"
        assert models.convolution_form() == "lax"
    assert targets.current() is None
    with targets.use(targets.parse("cpu:3")):
        assert replicas.mapper(num_models=8).name == "pmap[3] x map"

"""rnnkern.jax under JAX's transforms: the answers of the same network composed of JAX's own operations, in float64.

Bounds: sums of some hundred terms in another order, 1e3 eps of the largest entry.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax", reason="jax is not installed")

import jax
import jax.numpy as jnp

import rnnkern.jax as rj
from rnnkern.jax import calls, composed
from rnnkern.jax.arguments import Around, network_of, random_of
from rnnkern.jax.network import Operands

IN, H, STEPS, ROWS = 4, 6, 5, 3
LENGTHS = np.array([5, 2, 4], np.int32)
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {}),
    ("gru", {"clip": 0.5, "activations": ("hardsigmoid", "tanh")}),
    ("rnn", {}),
    ("slstm", {"heads": 2}),
    ("lstm", {"layer_norm": True, "proj_size": 4}),
    ("gru", {"zoneout": 0.3, "recurrent_dropout": 0.2}),
]
Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def pair(cell: str, options: dict[str, Any], layers: int = 2) -> tuple[Function, Function, dict[str, Any], Any]:
    """(params, x) -> y by the kernels and composed; parameters, x."""
    key = jax.random.key(3) if "zoneout" in options else None
    params = rj.init(jax.random.key(0), cell, IN, H, layers, bidirectional=True, dtype=jnp.float64, **options)
    around = Around(None, None, None, False, 0.0, key, False, False)
    network = network_of("rnn_tanh" if cell == "rnn" else cell, params, around, options)

    def kernels(params: Any, x: Any) -> Any:
        return getattr(rj, cell)(params, x, lengths=LENGTHS, key=key, **options)[0]

    def plain(params: Any, x: Any) -> Any:
        random = random_of(network, key)
        operands = Operands(x, None, None, network.weights(params), jnp.asarray(LENGTHS), random=random)
        return composed.layer(network, operands)[0]

    return kernels, plain, params, jax.random.normal(jax.random.key(1), (STEPS, ROWS, IN), jnp.float64)


def close(got: Any, wanted: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 1e3 * np.finfo(np.float64).eps * max(1.0, np.abs(b).max())


def like(tree: Any, seed: int = 7) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        structure, [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)]
    )


def loss(f: Function) -> Function:
    return lambda params, x: jnp.sin(f(params, x)).sum()


def both(plain: Function, params: Any, x: Any) -> dict[str, Callable[[Function], Any]]:
    """Transforms by name, as functions of the network."""
    tangents = like((params, x))
    many = like(jnp.zeros((4, *x.shape)))
    ensemble = jax.tree.map(lambda a: jnp.stack([a, 0.9 * a, 1.1 * a]), params)

    def second(f: Function) -> Any:
        """Reverse over reverse."""

        def first(params: Any, x: Any) -> Any:
            found = jax.grad(loss(f), (0, 1))(params, x)
            return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tangents), strict=True))

        return jax.grad(first, (0, 1))(params, x)

    return {
        "value": lambda f: f(params, x),
        "grad": lambda f: jax.grad(loss(f), (0, 1))(params, x),
        "jvp": lambda f: jax.jvp(f, (params, x), tangents)[1],
        "jvp of jvp": lambda f: jax.jvp(lambda p, x: jax.jvp(f, (p, x), tangents)[1], (params, x), tangents)[1],
        "jvp of grad": lambda f: jax.jvp(jax.grad(loss(f), (0, 1)), (params, x), tangents)[1],
        "grad of grad": second,
        "vmap": lambda f: jax.vmap(lambda x: f(params, x))(many),
        "grad of vmap": lambda f: jax.grad(lambda p: jnp.sin(jax.vmap(lambda x: f(p, x))(many)).sum())(params),
        "vmap of grad": lambda f: jax.vmap(jax.grad(loss(f), (0, 1)), (None, 0))(params, many),
        "vmap over parameters": lambda f: jax.vmap(f, (0, None))(ensemble, x),
        "grad of vmap over parameters": lambda f: jax.grad(lambda p: jnp.sin(jax.vmap(f, (0, None))(p, x)).sum())(
            ensemble
        ),
        "vmap of grad over parameters": lambda f: jax.vmap(jax.grad(loss(f)), (0, None))(ensemble, x),
        "vmap of vmap of grad": lambda f: jax.vmap(jax.vmap(jax.grad(loss(f)), (None, 0)), (0, None))(ensemble, many),
        "vmap of jacrev": lambda f: jax.vmap(jax.jacrev(lambda x: f(params, x).sum((0, 1))))(many),
        "transpose of vmap of linearize": lambda f: jax.linear_transpose(
            jax.vmap(jax.linearize(lambda x: f(params, x), x)[1]), many
        )(jax.vmap(lambda x: plain(params, x))(many)),
        "jacrev": lambda f: jax.jacrev(lambda x: f(params, x).sum((0, 1)))(x),
        "jacfwd": lambda f: jax.jacfwd(lambda x: f(params, x).sum((0, 1)))(x),
        "hessian": lambda f: jax.hessian(lambda x: jnp.sin(f(params, x)).sum())(x),
        "linearize": lambda f: jax.linearize(lambda x: f(params, x), x)[1](tangents[1]),
        "remat": lambda f: jax.grad(jax.checkpoint(loss(f)), (0, 1))(params, x),
    }


NAMES = (
    *("value", "grad", "jvp", "grad of grad", "vmap of grad"),  # for every case
    *("jvp of jvp", "jvp of grad", "vmap", "grad of vmap", "vmap over parameters", "grad of vmap over parameters"),
    *("vmap of vmap of grad", "vmap of jacrev", "transpose of vmap of linearize"),
    *("vmap of grad over parameters", "jacrev", "jacfwd", "hessian", "linearize", "remat"),
)
PAIRS = [(name, *case) for at, case in enumerate(CASES) for name in (NAMES if at == 0 else NAMES[:5])]


@pytest.mark.parametrize(("name", "cell", "options"), PAIRS, ids=["-".join((n, c, *o)) for n, c, o in PAIRS])
def test_transforms_are_those_of_the_composed_form(name: str, cell: str, options: dict[str, Any]) -> None:
    kernels, plain, params, x = pair(cell, options, layers=1)
    transform = both(plain, params, x)[name]
    close(jax.jit(lambda: transform(kernels))(), transform(plain))


def test_every_transform_has_a_test() -> None:
    assert set(NAMES) == both(*pair("gru", {})[1:]).keys()


def test_without_jit() -> None:
    kernels, plain, params, x = pair("gru", {})
    for name in ("grad", "vmap", "vmap of grad"):
        close(both(plain, params, x)[name](kernels), both(plain, params, x)[name](plain))


def test_a_gradient_is_one_call_each_way() -> None:
    """vmap of what does not map the parameters is a call with more rows, with a gradient, too."""
    kernels, _, params, x = pair("lstm", {})
    text = str(jax.make_jaxpr(jax.grad(loss(kernels)))(params, x))
    assert text.count("ffi_call") == 2
    many = jnp.stack([x, x])
    text = str(jax.make_jaxpr(jax.grad(lambda p: jax.vmap(lambda x: kernels(p, x))(many).sum()))(params))
    assert text.count("ffi_call") == 2 and "scan" not in text


def test_a_gradient_over_many_parameters_without_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX before 0.10 cannot transpose the loop that newer ones get: one backward after the other."""
    kernels, plain, params, x = pair("lstm", {}, layers=1)
    transform = both(plain, params, x)["grad of vmap over parameters"]
    used: list[int] = []
    own = calls.unrolled
    monkeypatch.setattr(calls, "unrolled", lambda *given: used.append(1) or own(*given))
    monkeypatch.setattr(jax, "__version_info__", (0, 9, 2))
    close(jax.jit(lambda: transform(kernels))(), transform(plain))
    assert used == [1]


def test_scan_over_layers_and_donation() -> None:
    params = rj.init(jax.random.key(0), "gru", H, H, dtype=jnp.float64)
    stacked = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), params)
    x = like(jnp.zeros((STEPS, ROWS, H)))

    def deep(stacked: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, own: (rj.gru(own, x)[0], None), x, stacked)[0]

    def unrolled(stacked: Any, x: Any) -> Any:
        for at in range(3):
            x = rj.gru(jax.tree.map(lambda a, at=at: a[at], stacked), x)[0]
        return x

    close(jax.jit(jax.grad(loss(deep), (0, 1)))(stacked, x), jax.grad(loss(unrolled), (0, 1))(stacked, x))
    wanted = deep(stacked, x)
    close(jax.jit(deep, donate_argnums=1)(stacked, x + 0), wanted)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
import rnnkern.jax as rj
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

assert jax.device_count() == 8
jax.config.update("jax_enable_x64", True)
mesh = Mesh(np.array(jax.devices()), ("rows",))
params = rj.init(jax.random.key(0), "lstm", 4, 6, 2, dtype=jnp.float64)
x = jax.random.normal(jax.random.key(1), (5, 16, 4), jnp.float64)
lengths = jnp.arange(16) % 6

def f(params, x, lengths):
    return rj.lstm(params, x, lengths=lengths)[0]

def both(f):
    return jax.jit(jax.value_and_grad(lambda p, x, n: jnp.sin(f(p, x, n)).sum(), (0, 1)))

def close(got, wanted):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() < 1e-12

wanted = both(f)(params, x, lengths)
place = lambda value, *spec: jax.device_put(value, NamedSharding(mesh, P(*spec)))
there = (place(params), place(x, None, "rows"), place(lengths, "rows"))
compiled = both(f).lower(*there).compile()
assert "all-gather" not in compiled.as_text()
value, (dparams, dx) = compiled(*there)
close((value, (dparams, dx)), wanted)
assert dx.sharding.spec == P(None, "rows"), dx.sharding
if not hasattr(jax, "shard_map"):
    from jax.experimental.shard_map import shard_map as jax_shard_map
    jax.shard_map = jax_shard_map
split = jax.shard_map(f, mesh=mesh, in_specs=(P(), P(None, "rows"), P("rows")), out_specs=P(None, "rows"))
close(both(split)(params, x, lengths), wanted)
one, other = (jax.jvp(lambda p: g(p, x, lengths), (params,), (params,)) for g in (split, f))
close(one, other)

def drop(params, x):
    return rj.lstm(params, x, dropout=0.5, key=jax.random.key(2))[0]

# Masks are those of the whole batch, in the composed form, too.
close(jax.jit(drop)(place(params), there[1]), drop(params, x))
along = lambda p, x: jax.jvp(lambda x: drop(p, x), (x,), (x,))[1]
close(jax.jit(along)(place(params), there[1]), along(params, x))

# A reserve of shards, read by a backward that is not split.
y, pull = jax.vjp(jax.jit(lambda x: f(params, x, lengths)), there[1])
want = jax.vjp(lambda x: f(params, x, lengths), x)[1](y)
close(jax.tree.map(lambda a: jax.device_put(a, jax.devices()[0]), pull)(jax.device_put(y, jax.devices()[0])), want)
close(jax.jit(lambda c: pull(c))(y), want)

# Second derivatives inside of shard_map.
hvp = lambda g: lambda p: jax.jvp(jax.grad(lambda p: jnp.sin(g(p, x, lengths)).sum()), (p,), (p,))[1]
close(hvp(split)(params), hvp(f)(params))

if hasattr(jax, "set_mesh"):
    explicit = jax.make_mesh((8,), ("rows",))
    with jax.set_mesh(explicit):
        own = jax.device_put(x, NamedSharding(explicit, P(None, "rows")))
        try:
            f(params, own, lengths)
        except NotImplementedError as refused:
            assert "x: expected axes of type Auto" in str(refused)
        else:
            assert "rows" not in str(jax.typeof(own)), "explicit axes are neither refused nor kept"
"""


def test_shards_of_the_batch_need_no_gathering() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_interface_of_xla_is_what_xla_s_header_says(tmp_path: Path) -> None:
    """csrc/python/xla_ffi.h has the structs that it uses in words of its own."""
    header = (Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h").read_text()
    base = next(name for name in ("InternalExtension", "Extension_Base") if f"XLA_FFI_{name};" in header)  # new, old
    pairs = {
        "CallFrame": "extension_start:extensions api ctx:context stage args:arguments rets:results attrs:attributes",
        "Args/Buffers": "size types args:items",
        "Rets/Buffers": "size types rets:items",
        "Attrs/Attributes": "size types names attrs:items",
        "Buffer": "dtype data rank dims",
        "ByteSpan": "ptr:data len:size",
        "Api": "api_version internal_api XLA_FFI_Error_Create:error_create",
        "Api_Version/ApiVersion": "major_version minor_version",
        "Metadata": "api_version traits",
        "Metadata_Extension/MetadataExtension": "extension_base:base metadata",
        f"{base}/Extension": "struct_size type next",
        "Error_Create_Args/ErrorCreateArgs": "message errc:code",
    }
    lines = []
    for names, fields in pairs.items():
        theirs, _, ours = names.partition("/")
        for field in fields.split():
            their, _, our = field.partition(":")
            offsets = f"offsetof(XLA_FFI_{theirs}, {their}) == offsetof(rnnk_py::xla::{ours or theirs}, {our or their})"
            lines.append(f'static_assert({offsets}, "{theirs}.{their}");')
    for theirs, ours in {
        "PRED": "pred",
        "S32": "i32",
        "S64": "i64",
        "F16": "f16",
        "F32": "f32",
        "F64": "f64",
        "BF16": "bf16",
    }.items():
        lines.append(f"static_assert(XLA_FFI_DataType_{theirs} == int(rnnk_py::xla::DataType::{ours}));")
    program = tmp_path / "offsets.cpp"
    program.write_text('#include "xla/ffi/api/c_api.h"\n#include "python/xla_ffi.h"\n' + "\n".join(lines))
    csrc = Path(__file__).parents[2] / "csrc"
    command = ["g++", "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", f"-I{jax.ffi.include_dir()}", f"-I{csrc}"]
    done = subprocess.run([*command, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

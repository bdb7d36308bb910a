"""Type stub of the native binding. Every function here is a thin wrapper of one function of rnnkern.h.

An *array* argument is a NumPy array (bfloat16 as ml_dtypes.bfloat16) or any CPU object with ``__dlpack__`` (a torch
tensor that does not require grad); strides are respected and outputs are written in place. Errors: ValueError,
TypeError, NotImplementedError, MemoryError, RuntimeError, raised before any work and naming the argument.

Calls of a plan with device "cuda" take arrays on that GPU instead, by DLPack or ``__cuda_array_interface__``; lengths
(int64), mask and reset (bool or uint8), reserve, workspace and ``into`` (uint8) too, contiguous ones. They put their
work on ``stream`` (a cudaStream_t, 0: the default one), which the caller has ordered after what made its arrays, wait
for nothing and allocate nothing: workspace has the bytes of ``sizes``, 64 at least, 64-byte aligned.
"""

from typing import Any

Array = Any
Random = tuple[int, int, int, int]

class Packed:
    """Packed weights of one plan: opaque, immutable, owns its memory."""

    nbytes: int
    forward: bool  # holds what Plan.forward needs
    backward: bool  # holds what Plan.backward needs

class Block:
    """At least ``nbytes`` bytes, 64-byte aligned, not zeroed, behind the buffer protocol.

    From the memory that is kept between calls, which the system need not zero again (``empty_cache``).
    """

    def __init__(self, nbytes: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Plan:
    """A network bound to kernels (rnnk_plan). Immutable, thread-safe.

    cell: a name from cells(); dtype: "float32", "float64", "bfloat16" or "float16"; kernel: force one by name.
    """

    def __init__(
        self,
        cell: str,
        dtype: str,
        input_size: int,
        hidden_size: int,
        *,
        kernel: str | None = None,
        **options: Any,
    ) -> None:
        """options: the fields of rnnk_problem, and its flags as bools.

        num_layers, direction ("forward", "reverse" or "both"), dropout, bias, recompute, proj_size, heads, peephole,
        coupled, reset_before, layer_norm, independent, clip, activations ((kind, alpha, beta) each), zoneout (a pair),
        recurrent_dropout, device ("cpu" or "cuda"), device_index, tf32, int8, bf16_weights, given_gx.
        """
    kernels: tuple[str, ...]  # [L]
    param_rows: int  # K of pack's params
    reserve_bound: tuple[int, int, int, int, int]  # rnnk_reserve_bound
    def pack(
        self,
        weights: list[Array | None],
        forward: bool = True,
        backward: bool = True,
        into: Array | None = None,
        stream: int = 0,
    ) -> Packed:
        """weights: six arrays for each layer and direction, in the order of rnnk_weights; None where there is none.

        weight_ih [G*H, I or D*P], weight_hh [G*H, P/heads], bias_ih and bias_hh [G*H], weight_hr [P, H], params
        [param_rows, H]; any strides, the plan's dtype. into: on a GPU, sizes(0, 0)["packed"] bytes that the answer
        keeps; the parameters are contiguous there.
        """
    def forward(self, packed: Packed, **arguments: Any) -> None:
        """rnnk_forward. None counts as absent.

        x [T, B, I] -> writes y [T, B, D*P], h_n [L*D, B, P], c_n [L*D, B, C]; c_0, c_n only for cells with a cell
        state (C is H; for sLSTM 3*H: c n m). For bfloat16 and float16, c_0 and c_n may be float32 as well.
        lengths: contiguous int64 [B]. mask, reset: bool or uint8 [T, B], contiguous. random: (seed, call, first stream,
        first step) draws random masks. reserve: uint8 [sizes(T, B)["reserve"]], 64-byte aligned, takes what backward
        needs. workspace, stream: on a GPU.
        """
    def backward(self, packed: Packed, **arguments: Any) -> None:
        """rnnk_backward. What is not given is not computed.

        The arguments of forward but h_n and c_n, with y and reserve as forward left them; dy, dh_n, dc_n; outputs dx,
        dh_0, dc_0, gradients (as pack's weights), dh (an array [T, B, D*P] for each layer: of every h_t); clip_dh.
        """
    @property
    def problem(self) -> bytes:
        """The plan's rnnk_problem."""
    def estimate(self, seq_len: int, batch: int, backward: bool = False) -> float:
        """Estimated microseconds of a call."""
    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        """rnnk_sizes: packed, reserve, workspace_forward, workspace_backward, and the least of both."""

class Stepper:
    """One step of a cell in place, for streaming: no allocation, no lookups. Threads may share one."""

    def __init__(self, plan: Plan, packed: Packed, batch: int) -> None: ...
    def step(self, x: Array, h: Array, c: Array | None = None) -> None:
        """x [B, I]; h (and c) [B, H] are read and overwritten with the next state."""

    def try_step(self, x: Any, state: Any) -> bool:
        """``step`` for contiguous NumPy arrays apart from each other; False, and nothing done, for anything else."""

class Inference:
    """Inference of a network on plain arrays in one call; threads may share one.

    packed: None where each call brings weights. step: of a cell, whose arrays have no axes of time, layers and
    directions.
    """

    def __init__(self, plan: Plan, packed: Packed | None, batch_first: bool = False, step: bool = False) -> None: ...
    @property
    def plain(self) -> bool:
        """Whether it ever answers: float32 and float64, but not sLSTM, whose states come in another form."""

    @property
    def keeps(self) -> bool:
        """Whether it keeps a pack of weights that ``try_tensors`` got in two calls of several steps."""

    def forget(self) -> None:
        """Let go of that pack."""

    def try_call(self, x: Any, state: Any) -> Any:
        """(y, h_n) or (y, (h_n, c_n)) in new arrays, for x [T, B, I] (batch_first: [B, T, I]) and states [L*D, B, .];
        for a cell h or (h, c), for x [B, I] and states [B, .]. state None: zeros.

        Arrays are contiguous NumPy arrays in the plan's dtype. None, and nothing done, for anything else.
        """

    def try_tensors(self, x: Any, state: Any, weights: list[Any] | None = None) -> Any:
        """The same for tensors of torch with DLPack's C table, in host memory, with any strides.

        weights: five for each layer and direction (None: absent), of the plan's shapes. The caller
        makes sure that memory holds values (no negation bit) and that no graph is to be recorded.
        """

class Training(Inference):
    """Training of a network on plain tensors, one call for each pass. Weights are those of ``try_tensors``."""

    def __init__(self, plan: Plan, batch_first: bool = False, step: bool = False) -> None: ...
    def try_forward(self, x: Any, state: Any, weights: list[Any], bytes: Any) -> Any:
        """(y, h_n, c_n, reserve) in new tensors, None where there is none; of a cell y is h, and h_n is None.

        bytes: a tensor of uint8, whose like the reserve is. None, and nothing done, for anything unusual, and for a
        reserve of more than 1 MiB.
        """

    def try_backward(
        self,
        inputs: tuple[Any, Any, Any],
        weights: list[Any],
        outputs: tuple[Any, Any],
        grads: tuple[Any, ...],
        needs: tuple[bool, ...],
    ) -> Any:
        """Gradients of (x, h_0, c_0, *weights that there are), None where ``needs`` says so.

        inputs: x, h_0 and c_0 or None. outputs: y and the reserve. grads: of y, h_n and c_n, each perhaps None.
        """

def fit(tensors: list[Any], types: tuple[type, ...], dtype: str, shapes: tuple[tuple[int, ...], ...]) -> bool:
    """Whether tensors of a library with DLPack's C table (torch) are of one of the types itself, dense, in host memory,
    of a dtype and of these shapes.

    False does not say why, and is the answer for every other array.
    """

def dropout(x: Array, out: Array, p: float, key: tuple[int, int, int], lengths: Array | None = None) -> None:
    """[T, B, H] -> out: the counter-based mask of rnnk_dropout; its gradient is the same call on dy. x may be out.

    key: (seed, call, stream).
    """

def explain(
    cell: str, dtype: str, sizes: tuple[int, int], extent: tuple[int, int], layer: int = 0, **options: Any
) -> list[dict[str, Any]]:
    """Every kernel's verdict on a layer of a problem (rnnk_explain). sizes: (I, H); extent: (T, B); options: Plan's."""

def as_numpy(array: Array) -> Any:
    """A NumPy view, not a copy, of any CPU array with ``__dlpack__``; read-only if the producer says so."""

def device_count() -> int:
    """GPUs that can be used. This and every call that reaches CUDA raises RuntimeError in a forked child of a process
    that used CUDA.
    """

def devices_unavailable() -> str:
    """Why there are none, or ""."""

def device_info(index: int) -> dict[str, Any]:
    """name, capability (90 for 9.0), multiprocessors, shared_per_block and memory (bytes)."""

def device_check(index: int) -> None:
    """Raises, once, what kernels on this GPU found wrong since the last time; waits for nothing."""

def set_cublaslt(path: str) -> None:
    """The file of cuBLASLt, where the loader's path does not lead to one; before the first call that needs it."""

def span(array: Array, name: str, device_index: int) -> tuple[int, int, bool]:
    """An array on a GPU: its first byte, one past its last, and whether elements share a place."""

def cells() -> list[tuple[str, int, int, int, tuple[str, ...]]]:
    """(name, gates, states, activations, options) of the compiled cells, in list order.

    options: those that not every cell takes, by the names of the keywords of ``Plan`` ("zoneout of c": the second one).
    """

def kernels() -> list[tuple[str, str]]:
    """(name, why it is unavailable on this machine or "") of the compiled kernels, in list order."""

def kernel_weights() -> dict[str, str]:
    """By name of a kernel the form of the weights that it is for: "int8", "bf16", or "" for the dtype itself."""

def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def set_pool(parallel: int, index: int = 0, count: int = 0) -> None:
    """Addresses of functions as rnnk_set_pool takes them: run on a host's threads, and on no more than count() of them.

    0: the library's own threads, no index, no limit.
    """

def pool_is_lent() -> bool: ...
def xla_handler() -> object:
    """A capsule with the handler of XLA's calls (csrc/python/xla.cpp)."""

def nodes_left_to_onnxruntime() -> list[str]:
    """Why nodes were not taken from graphs that onnxruntime divided on this thread since the last call (csrc/ort)."""

def empty_cache() -> int:
    """Bytes given back."""

def cached_bytes() -> int: ...
def version() -> str: ...
def cpu_features() -> str: ...
def probe_fma(threads: int, dtype: int, seconds: float) -> float:
    """GFLOP/s of this machine in registers; dtype as in bench/native/probe.h. 0.0 without the instruction."""

def probe_fed(threads: int, narrow: int, seconds: float) -> float:
    """The same of float32 with operands from the caches; narrow: 1 for 256 bits."""

def probe_read(threads: int, bytes_per_thread: int, seconds: float) -> float:
    """GB/s of this machine, each thread reading its own buffer again and again."""

class DLPack:
    """Exports a NumPy array (bfloat16 included) to other libraries: has __dlpack__ and __dlpack_device__."""

    def __init__(self, array: Any) -> None: ...
    def __dlpack__(self, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

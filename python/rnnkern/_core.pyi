"""Type stub of the native binding. Every function here is a thin wrapper of one function of rnnkern.h.

An *array* argument is a NumPy array (bfloat16 as ml_dtypes.bfloat16) or any CPU object with ``__dlpack__`` (a torch
tensor that does not require grad); strides are respected and outputs are written in place. Errors: ValueError,
TypeError, NotImplementedError, MemoryError, RuntimeError, raised before any work and naming the argument.

Calls of a plan with device "cuda" take arrays on that GPU instead, by DLPack or ``__cuda_array_interface__``; lengths
(int64), mask and reset (bool or uint8), reserve, workspace and ``into`` (uint8) too, contiguous ones. They put their
work on ``stream`` (a cudaStream_t, 0: the default one), which the caller has ordered after what made its arrays, wait
for nothing and allocate nothing: workspace has the bytes of ``sizes``, 64 at least, 64-byte aligned.
"""

from collections.abc import Sequence
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
    """One layer in one direction, bound to a kernel (rnnk_plan). Immutable, thread-safe.

    cell: a name from cells(); dtype: "float32", "float64", "bfloat16" or "float16"; kernel: force one by name.
    """

    def __init__(
        self,
        cell: str,
        dtype: str,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        reverse: bool = False,
        recompute: bool = False,
        kernel: str | None = None,
        proj_size: int = 0,
        heads: int = 1,
        peephole: bool = False,
        coupled: bool = False,
        reset_before: bool = False,
        layer_norm: bool = False,
        independent: bool = False,
        masked: bool = False,
        clip: float = 0.0,
        activations: Sequence[tuple[int, float, float]] = (),
        zoneout: tuple[float, float] = (0.0, 0.0),
        recurrent_dropout: float = 0.0,
        device: str = "cpu",
        device_index: int = 0,
        tf32: bool = False,
    ) -> None:
        """The options are rnnk_problem's; masked: calls may give mask and reset. activations: (kind, alpha, beta).

        device: "cpu" or "cuda". tf32: float32's products on a GPU may round their operands to 10 bits of mantissa.
        """
    kernel: str
    param_rows: int  # K of pack's params
    def pack(
        self,
        weight_ih: Array,
        weight_hh: Array | None,
        bias_ih: Array | None,
        bias_hh: Array | None,
        backward: bool = True,
        forward: bool = True,
        weight_hr: Array | None = None,
        params: Array | None = None,
        into: Array | None = None,
        stream: int = 0,
    ) -> Packed:
        """weight_ih [G*H, I], weight_hh [G*H, P/heads], bias_* [G*H] (None without bias), any strides, the plan's
        dtype.

        weight_hr [P, H] with a projection; params [param_rows, H] (rnnk_weights). independent: params hold weight_hh,
        bias_hh. into: on a GPU, sizes(0, 0)["packed"] bytes that the answer keeps; the parameters are contiguous there.
        """
    def forward(
        self,
        packed: Packed,
        x: Array,
        h_0: Array | None,
        c_0: Array | None,
        y: Array,
        h_n: Array | None,
        c_n: Array | None,
        lengths: Array | None = None,
        reserve: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        random: Random | None = None,
        workspace: Array | None = None,
        stream: int = 0,
        place: tuple[int, int] | None = None,
    ) -> None:
        """x [T, B, I] -> writes y [T, B, P], h_n [B, P], c_n [B, C]; c_0, c_n only for cells with a cell state (C
        is H, of sLSTM 3*H: c n m).

        mask, reset: NumPy bool or uint8 [T, B], contiguous. random: (seed, call, stream, first step) draws the cell's
        masks.

        lengths: contiguous int64 [B] on the host. reserve: NumPy uint8 [sizes(T, B)["reserve"]], 64-byte aligned, takes
        what backward needs.
        For bfloat16 and float16, c_0 and c_n may be float32 as well.
        place: (index, directions) where the arrays are those of a stack of layers, y [T, B, directions * P] and states
        [L*D, B, P]; the call takes the columns and the row that are its own.
        """

    def forward_both(
        self,
        other: Plan,
        packed: Sequence[Packed],
        x: Array,
        h_0: Array | None,
        c_0: Array | None,
        y: Array,
        h_n: Array,
        c_n: Array | None,
        lengths: Array | None,
        reserve: Sequence[Array | None],
        mask: Array | None,
        reset: Sequence[Array | None],
        random: Sequence[Random | None],
        workspace: Array | None,
        stream: int,
        index: int,
    ) -> None:
        """forward of this plan, and of another as the second direction, on the same x (rnnk_forward_both).

        Arrays are as with ``place``, index that of the first; every sequence has two entries. workspace: of both, the
        first rounded up to 64 bytes.
        """
    @staticmethod
    def forward_stack(
        plans: Sequence[Plan],
        packed: Sequence[Packed],
        x: Array,
        h_0: Array | None,
        c_0: Array | None,
        y: Sequence[Array],
        h_n: Array,
        c_n: Array | None,
        workspace: Array | None,
        stream: int,
        lengths: Array | None = None,
        reserve: Sequence[Array | None] | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        random: Sequence[Random | None] | None = None,
    ) -> None:
        """forward of a stack of layers, each on the y of the one below (rnnk_forward_stack); states [L, B, P].

        workspace: of all, each rounded up to 64 bytes. reserve, random: one for each layer, or none at all.
        """
    @staticmethod
    def backward_stack(
        plans: Sequence[Plan],
        packed: Sequence[Packed],
        reserve: Sequence[Array],
        x: Sequence[Array],
        h_0: Array | None,
        c_0: Array | None,
        y: Sequence[Array],
        dy: Array | None,
        dh_n: Array | None,
        dc_n: Array | None,
        dx: Sequence[Array | None],
        lengths: Array | None,
        mask: Array | None,
        reset: Array | None,
        random: Sequence[Random | None],
        clip_dh: float,
        workspace: Array | None,
        stream: int,
        first: int,
        gradients: Sequence[dict[str, Array | None]],
    ) -> None:
        """backward of layers `first` and up of a stack (rnnk_backward_stack): dy is the last one's, dx[i] the gradient
        of x[i], of which the lowest may be None. Sequences have an entry for each layer; the rest is as with backward.
        """
    def backward(
        self,
        packed: Packed,
        reserve: Array,
        x: Array,
        h_0: Array | None,
        c_0: Array | None,
        y: Array,
        dy: Array | None,
        dh_n: Array | None,
        dc_n: Array | None,
        *,
        dx: Array | None = None,
        accumulate_dx: bool = False,
        lengths: Array | None = None,
        mask: Array | None = None,
        reset: Array | None = None,
        random: Random | None = None,
        clip_dh: float = 0.0,
        workspace: Array | None = None,
        stream: int = 0,
        place: tuple[int, int] | None = None,
        **gradients: Array | None,
    ) -> None:
        """Writes every output that is not None (of parameters contiguous, overwritten), never the reserve.

        gradients: dh_0, dc_0, dweight_ih, dweight_hh, dbias_ih, dbias_hh, dweight_hr, dparams, and dh [T, B, P]: the
        gradient of each h_t, where it is alive. clip_dh bounds its elements at every step; 0: no bound.
        """
    def backward_both(
        self,
        other: Plan,
        packed: Sequence[Packed],
        reserve: Sequence[Array],
        x: Array,
        h_0: Array | None,
        c_0: Array | None,
        y: Array,
        dy: Array | None,
        dh_n: Array | None,
        dc_n: Array | None,
        dx: Array | None,
        lengths: Array | None,
        mask: Array | None,
        reset: Sequence[Array | None],
        random: Sequence[Random | None],
        clip_dh: float,
        workspace: Array | None,
        stream: int,
        index: int,
        gradients: Sequence[dict[str, Array | None]],
    ) -> None:
        """backward of this plan, then of another as the second direction, which adds to the same dx
        (rnnk_backward_both).

        Arrays are as with ``place``, index that of the first; every sequence has two entries. workspace: of both, the
        first rounded up to 64 bytes, the second ``workspace_beside`` bytes.
        """
    def workspace_beside(self, other: Plan, seq_len: int, batch: int) -> int:
        """Bytes of workspace of the other plan in ``backward_both``, where there is a dx: more than its own where they
        are to run at the same time."""
    def estimate(self, seq_len: int, batch: int, backward: bool = False) -> float:
        """Estimated microseconds."""
    def sizes(self, seq_len: int, batch: int) -> dict[str, int]:
        """Bytes: packed, reserve, workspace_forward, workspace_backward."""

class Stepper:
    """One step of a cell in place, for streaming: no allocation, no lookups. Threads may share one."""

    def __init__(self, plan: Plan, packed: Packed, batch: int) -> None: ...
    def step(self, x: Array, h: Array, c: Array | None = None) -> None:
        """x [B, I]; h (and c) [B, H] are read and overwritten with the next state."""

    def try_step(self, x: Any, state: Any) -> bool:
        """``step`` for contiguous NumPy arrays apart from each other; False, and nothing done, for anything else."""

def fit(tensors: list[Any], types: tuple[type, ...], dtype: str, shapes: tuple[tuple[int, ...], ...]) -> bool:
    """Whether tensors of a library with DLPack's C table (torch) are of one of the types itself, dense, in host memory,
    of a dtype and of these shapes.

    False does not say why, and is the answer for every other array.
    """

def dropout(
    x: Array,
    out: Array,
    p: float,
    seed: int,
    call: int,
    stream: int,
    lengths: Array | None = None,
    device: str = "cpu",
    device_index: int = 0,
    cuda_stream: int = 0,
) -> None:
    """[T, B, H] -> out: the counter-based mask of rnnk_dropout; its gradient is the same call on dy. x may be out."""

def explain(
    cell: str, dtype: str, input_size: int, hidden_size: int, seq_len: int, batch: int, **options: Any
) -> list[dict[str, Any]]:
    """options: as Plan's. One dict per kernel in list order: name, declined (bool), reason (str), forward_us,
    backward_us.
    """

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
    """Of an array on a GPU: its first byte, one past its last, and whether elements share a place."""

def cells() -> list[tuple[str, int, int, int, tuple[str, ...]]]:
    """(name, gates, states, activations, options) of the compiled cells, in list order.

    options: those that not every cell takes, by the names of the keywords of ``Plan`` ("zoneout of c": the second one).
    """

def kernels() -> list[tuple[str, str]]:
    """(name, why it is unavailable on this machine or "") of the compiled kernels, in list order."""

def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def set_pool(parallel: int, index: int = 0, count: int = 0) -> None:
    """Addresses of functions as rnnk_set_pool takes them: run on a host's threads, and on no more than count() of them.

    0: the library's own threads, no index, no limit.
    """

def pool_is_lent() -> bool: ...
def empty_cache() -> int:
    """Bytes given back."""

def cached_bytes() -> int: ...
def version() -> str: ...
def cpu_features() -> str: ...
def probe_fma(threads: int, dtype: int, seconds: float) -> float:
    """GFLOP/s of this machine in registers; dtype as in csrc/probe.h. 0.0 without the instruction."""

def probe_fed(threads: int, narrow: int, seconds: float) -> float:
    """The same of float32 with operands from the caches; narrow: 1 for 256 bits."""

def probe_read(threads: int, bytes_per_thread: int, seconds: float) -> float:
    """GB/s of this machine, each thread reading its own buffer again and again."""

class DLPack:
    """Exports a NumPy array (bfloat16 included) to other libraries: has __dlpack__ and __dlpack_device__."""

    def __init__(self, array: Any) -> None: ...
    def __dlpack__(self, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

"""Drop-in modules for the recurrent modules of ``torch.nn``, on rnnkern's kernels.

    from rnnkern.torch import LSTM, replace

    lstm = LSTM(64, 128, num_layers=2, bidirectional=True)     # the arguments of torch.nn.LSTM
    y, (h_n, c_n) = lstm(x)                                    # tensors or a PackedSequence, batched or not
    y, (h_n, c_n) = lstm(x, lengths=lengths)                   # extension: any order, zeros allowed
    y, (h_n, c_n) = lstm(x, mask=mask, reset=reset)            # extension: skipped steps, restarted states
    LSTM(64, 128, layer_norm=True, zoneout=(0.1, 0.1))         # extension: the options of rnnkern.LSTM

    report = replace(model)                                    # replaces every RNN of a model; report.undo()
    report = quantize(model)                                   # the same, with weights in int8 or bf16

Constructors, parameter names, initial values after ``manual_seed``, ``state_dict``, shapes and error types are those of
``torch.nn``. ``docs/torch.md`` lists the differences and all features, each with its test.

Kernels run on torch's OpenMP threads from the import of this package on, and on rnnkern's own threads in a forked child
(``threads.py`` has the reason). ``RNNKERN_TORCH_THREADS=0`` selects rnnkern's own threads everywhere.
``rnnkern.set_num_threads`` sets the number.
"""

try:
    import torch as _torch  # noqa: F401  (this package's own name is rnnkern.torch: the import is absolute)
except ImportError as error:
    raise ImportError("rnnkern.torch needs PyTorch 2.11 or later; install it with: pip install torch") from error

from . import threads as _threads
from .cells import GRUCell, LSTMCell, RNNCell, sLSTMCell
from .modules import GRU, LSTM, RNN, sLSTM
from .quantization import quantize
from .swap import Replacement, replace

_threads.borrow()

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Replacement",
    "quantize",
    "replace",
    "sLSTM",
    "sLSTMCell",
]

"""Drop-ins for ``torch.nn``'s recurrent modules on rnnkern's kernels.

    from rnnkern.torch import LSTM, replace

    lstm = LSTM(64, 128, num_layers=2, bidirectional=True)     # torch.nn.LSTM's arguments, order and defaults
    y, (h_n, c_n) = lstm(x)                                    # tensors or a PackedSequence, batched or not
    y, (h_n, c_n) = lstm(x, lengths=lengths)                   # extension: any order, zeros allowed
    y, (h_n, c_n) = lstm(x, mask=mask, reset=reset)            # extension: steps left out, steps that begin anew
    LSTM(64, 128, layer_norm=True, zoneout=(0.1, 0.1))         # extension: the options of rnnkern.LSTM

    report = replace(model)                                    # swaps every RNN of a model in place; report.undo()

Constructors, parameter names, initial values under one ``manual_seed``, ``state_dict``, shapes and error types are
those of ``torch.nn``. What differs, on purpose:

* The modules derive from ``torch.nn.Module``, not from ``torch.nn.LSTM``: ``isinstance(m, torch.nn.LSTM)`` is False.
* Weights are read from the module's attributes and packed anew at every call, so no change to them can be missed,
  however it is made. Only an explicit ``freeze()`` keeps a pack.
* ``lengths=``, ``mask=``, ``reset=``, a sequence of no steps and a batch of no rows are accepted.
* Options of the cell are keywords after torch.nn's arguments, and read-only attributes. torch.nn has ``proj_size``.
* A state whose batch does not fit a PackedSequence is always refused; ``torch.nn`` drops surplus rows of it.
* Under CPU autocast every module computes and answers in autocast's dtype, as ``torch.nn.LSTM`` and ``RNN`` do;
  ``torch.nn.GRU`` and packed ``LSTM`` answer in float32 there.
* Writing in place to an output before ``backward`` raises autograd's own error for every module; ``torch.nn`` does so
  for LSTM alone.

Kernels run on torch's own OpenMP threads from the import of this package on (``threads.py`` says why), in a forked
child on rnnkern's own; ``RNNKERN_TORCH_THREADS=0`` keeps rnnkern's own everywhere. ``rnnkern.set_num_threads`` says
how many.

A call is one operator, ``torch.ops.rnnkern.layer``, under ``torch.compile(fullgraph=True)`` and ``torch.export``, with
any T and B. Second derivatives, forward mode, ``vmap`` and torch.func work; what has no fused kernel runs on the cells
composed of torch's operations, tens of times slower, as ``rnnkern.explain(module, x)`` says. ``docs/torch.md`` has the
list.

On a GPU (``module.to("cuda")``) work goes on torch's current stream and waits for nothing; lengths, mask and reset may
be there too. Whether float32 may use TF32 says ``torch.backends.cudnn.allow_tf32``, as for torch.nn's RNNs. Random
masks are drawn from torch's generator for that GPU, and refused while a CUDA graph is captured.

Not there, and refused by name with NotImplementedError: tensors on other devices.
"""

try:
    import torch as _torch  # noqa: F401  (this package's own name is rnnkern.torch: the import is absolute)
except ImportError as error:
    raise ImportError("rnnkern.torch needs PyTorch 2.11 or later; install it with: pip install torch") from error

from . import threads as _threads
from .cells import GRUCell, LSTMCell, RNNCell, sLSTMCell
from .modules import GRU, LSTM, RNN, sLSTM
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
    "replace",
    "sLSTM",
    "sLSTMCell",
]

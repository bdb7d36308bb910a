"""Training without a framework: small parts around a recurrent layer, on NumPy arrays.

    layers.py     Linear, Embedding: forward / backward with a tape, like rnnkern's recurrent layers
    attention.py  Attention: dot-product attention of a decoder over an encoder's outputs
    loss.py       softmax_cross_entropy over ragged batches
    clip.py       clip_grad_norm, clip_grad_value
    optim.py      Adam, SGD for layers with params and update
    schedule.py   cosine_lr: the learning rate by step
    probe.py      gradient_norms: the norm of the gradient at each step

Every gradient is explicit. No function records calls, and no function writes to an argument. A model is a Stack, and a
training step reads from top to bottom:

    model = rk.Stack(Embedding(V, E), rk.LSTM(E, H), Linear(H, V))
    opt = Adam(model)
    logits, state, tape = model.forward(codes, state)                  # [T, B] -> [T, B, V]
    loss, dlogits = softmax_cross_entropy(logits, targets)
    grads, norm = clip_grad_norm(model.backward(tape, dlogits).params, 1.0)
    opt.step(grads)
"""

from ..nn.tape import Gradients
from .attention import Attention
from .clip import clip_grad_norm, clip_grad_value
from .layers import Embedding, Linear
from .loss import softmax_cross_entropy
from .optim import SGD, Adam
from .probe import gradient_norms
from .schedule import cosine_lr

__all__ = [
    "SGD",
    "Adam",
    "Attention",
    "Embedding",
    "Gradients",
    "Linear",
    "clip_grad_norm",
    "clip_grad_value",
    "cosine_lr",
    "gradient_norms",
    "softmax_cross_entropy",
]

"""Training without a framework: small parts around a recurrent layer, on NumPy arrays.

    layers.py   Linear, Embedding: forward / backward with a tape, like rnnkern's recurrent layers
    loss.py     softmax_cross_entropy over ragged batches
    clip.py     clip_grad_norm, clip_grad_value
    optim.py    Adam, SGD for layers with params and update
    probe.py    gradient_norms: the norm of the gradient at each step

Every gradient is explicit. No function records calls, and no function writes to an argument. A training step reads from
top to bottom:

    x, tape_e = embed.forward(codes)                                   # [T, B] -> [T, B, E]
    y, state, tape_r = lstm.forward(x, state)                          # -> [T, B, H]
    logits, tape_o = linear.forward(y)                                 # -> [T, B, V]
    loss, dlogits = softmax_cross_entropy(logits, targets)
    g_o = linear.backward(tape_o, dlogits)
    g_r = lstm.backward(tape_r, g_o.x)
    g_e = embed.backward(tape_e, g_r.x)
    grads, norm = clip_grad_norm({"embed": g_e.params, "rnn": g_r.params, "out": g_o.params}, 1.0)
    opt.step(grads)                                                    # opt = Adam({"embed": embed, "rnn": lstm, ...})
"""

from .clip import clip_grad_norm, clip_grad_value
from .layers import Embedding, Gradients, Linear
from .loss import softmax_cross_entropy
from .optim import SGD, Adam
from .probe import gradient_norms

__all__ = [
    "SGD",
    "Adam",
    "Embedding",
    "Gradients",
    "Linear",
    "clip_grad_norm",
    "clip_grad_value",
    "gradient_norms",
    "softmax_cross_entropy",
]

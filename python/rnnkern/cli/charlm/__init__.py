"""The character model behind ``rnnkern demo``, from text to sampled text, on NumPy and rnnkern alone.

corpus.py   text -> vocabulary, codes, held-out tail, contiguous streams
model.py    Embedding -> LSTM -> Linear: a training step, the held-out loss, sampling, checkpoints
loop.py     the training loop: time budget, learning rate, evaluations, a stop that comes between two steps
plot.py     the loss as a PNG
"""

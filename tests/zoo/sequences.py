"""Networks on sequences: recurrent, scanning, attending, and with a loss over alignments."""

import itertools

import torch
import torch.nn.functional as F
from cases import CE, MSE, Case, case, labels
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint


class Packed(nn.Module):
    """A recurrent layer over sequences of several lengths, packed."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.rnn, self.out = getattr(nn, kind)(3, 3), nn.Linear(3, 2)

    def forward(self, packed):
        _, state = self.rnn(packed)
        return self.out((state[0] if self.kind == "LSTM" else state)[-1])


def packed(lengths=(6, 5, 4, 2)):
    """Sequences that come in any order, as their lengths say."""
    return pack_sequence([torch.randn(n, 3) for n in lengths], enforce_sorted=False)


@case
def lstm_packed():
    return Case(
        model=Packed("LSTM"), data=(packed(), torch.tensor([0, 1, 1, 0])), loss=CE,
        own=lambda model, data, loss: loss(model(data[0]), data[1]),
    )  # fmt: skip


@case
def gru_packed():
    return Case(
        model=Packed("GRU"), data=(packed((3, 6, 1, 4)), torch.tensor([1, 0, 1, 0])), loss=CE,
        own=lambda model, data, loss: loss(model(data[0]), data[1]),
    )  # fmt: skip


class Tagger(nn.Module):
    """Two directions and two layers, over a packed sequence and back to a padded one."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 2, num_layers=2, bidirectional=True)
        self.out = nn.Linear(4, 2)

    def forward(self, packed, scale):
        padded, lengths = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        kept = torch.arange(padded.shape[1]) < lengths[:, None]
        return self.out(padded)[kept] * scale


@case
def packed_beside_another_argument():
    lengths = (5, 3, 2)
    data = ((packed(lengths), torch.tensor(1.5)), labels(sum(lengths), 2))
    return Case(
        model=Tagger(), data=data, loss=CE,
        own=lambda model, data, loss: loss(model(*data[0]), data[1]),
    )  # fmt: skip


class Scan(nn.Module):
    """A selective scan as in Mamba: step, input and output maps depend on the input."""

    def __init__(self, width=3, states=2):
        super().__init__()
        self.project = nn.Linear(width, 2 * states + width)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, states + 1)).repeat(width, 1))
        self.skip, self.out = nn.Parameter(torch.ones(width)), nn.Linear(width, width)
        self.states = states

    def forward(self, x):
        b, c, step = self.project(x).split([self.states, self.states, x.shape[-1]], -1)
        step, a = F.softplus(step), -self.log_a.exp()
        state, found = x.new_zeros(len(x), x.shape[-1], self.states), []
        for t in range(x.shape[1]):
            decay = torch.exp(step[:, t, :, None] * a)
            state = decay * state + (step[:, t] * x[:, t])[..., None] * b[:, t, None]
            found.append((state * c[:, t, None]).sum(-1) + self.skip * x[:, t])
        return self.out(torch.stack(found, 1))


@case
def selective_scan():
    x = torch.randn(4, 5, 3)
    return Case(model=Scan(), data=(x, x.roll(-1, 1)), loss=MSE)


class Pooling(nn.Module):
    """Attention pooling; what is padding gets a score of -inf."""

    def __init__(self):
        super().__init__()
        self.score, self.inner, self.out = nn.Linear(4, 1), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x, mask):
        score = self.score(torch.tanh(self.inner(x)))[..., 0].masked_fill(~mask, -torch.inf)
        return self.out((score.softmax(-1)[..., None] * x).sum(1))


def masked(samples=6, length=5):
    lengths = torch.arange(samples) % length + 1
    return torch.randn(samples, length, 4), torch.arange(length) < lengths[:, None]


@case
def attention_pooling_with_minus_infinity():
    return Case(model=Pooling(), data=(masked(), labels(6)), loss=CE)


class Encoder(nn.Module):
    """Torch's own encoder, which takes a fused path without derivatives when none are asked for."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 4, dropout=0.0, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.out(self.encoder(x, src_key_padding_mask=~mask)[:, 0])


@case
def transformer_encoder_with_padding():
    return Case(model=Encoder().eval(), data=(masked(), labels(6)), loss=CE)


class Checkpointed(nn.Module):
    """A hidden layer that is computed again on the way back."""

    def __init__(self, reentrant):
        super().__init__()
        self.reentrant, self.saving = reentrant, True
        self.first, self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def block(self, h):
        return torch.tanh(self.inner(h))

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if self.saving:
            return self.out(checkpoint(self.block, h, use_reentrant=self.reentrant))
        return self.out(self.block(h))


def unsaved(model, data, loss):
    """The same loss with everything kept, which is the same function."""
    model.saving = False
    return loss(model(data[0]), data[1])


@case
def checkpoint_not_reentrant():
    x = torch.randn(12, 4)
    return Case(model=Checkpointed(False), data=(x, labels(12)), loss=CE, own=unsaved)


@case
def checkpoint_reentrant():
    x = torch.randn(12, 4)
    return Case(
        model=Checkpointed(True), data=(x, labels(12)), loss=CE, own=unsaved,
        # torch refuses torch.autograd.grad through it, and has no second derivative.
        excused="reentrant",
    )  # fmt: skip


class Listener(nn.Module):
    """Frames to log-probabilities of a blank and two letters."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.inner(x))).log_softmax(-1)


SPOKEN = torch.tensor([[1, 2], [2, 2], [1, 0]])
LENGTHS = torch.tensor([2, 2, 1])


def connectionist(output, target):
    """torch's own loss over alignments, of which torch has first derivatives alone."""
    frames = torch.full((len(target),), output.shape[1])
    return F.ctc_loss(output.transpose(0, 1), target, frames, LENGTHS)


def every_alignment(model, data, loss):
    """The same number from the sum over all paths that collapse to the letters."""
    output, total = model(data[0]), 0.0
    for sample, (letters, length) in enumerate(zip(SPOKEN.tolist(), LENGTHS.tolist(), strict=True)):
        frames = range(output.shape[1])
        paths = [
            sum(output[sample, t, path[t]] for t in frames)
            for path in itertools.product(range(3), repeat=len(frames))
            if [letter for letter, _ in itertools.groupby(path) if letter] == letters[:length]
        ]
        total = total - torch.logsumexp(torch.stack(paths), 0) / length
    return total / len(SPOKEN)


@case
def ctc_by_differences():
    return Case(
        model=Listener(), data=(torch.randn(3, 5, 3), SPOKEN), loss=connectionist,
        own=every_alignment, options={"derivatives": "differences"},
    )  # fmt: skip

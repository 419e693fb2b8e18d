"""Language models of Hugging Face in their smallest configurations, and embeddings."""

import pytest
import torch
import torch.nn.functional as F
from cases import CE, Case, by_name, case, labels, trainable
from torch import nn

TINY = {"vocab_size": 7, "attention_dropout": 0.0}
# Losses, norms and rotations are computed in float32 there, whatever the model is given.
SINGLE_INSIDE = 1e-6


def tokens(samples=4, length=5):
    """Sentences with padding, and their labels for a language model."""
    ids = torch.randint(1, 7, (samples, length))
    mask = torch.arange(length) < length - torch.arange(samples)[:, None] % 3
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def spoken(**options):
    batch = tokens(**options)
    return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def inside(output, batch):
    """The loss that the model has computed itself."""
    return output.loss


def bert():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=4, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=4, max_position_embeddings=6, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2(layers=1):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=7, n_positions=6, n_embd=4, n_layer=layers, n_head=2, n_inner=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


@case
def bert_with_its_own_loss():
    return Case(
        model=bert().eval(), data={**tokens(), "labels": labels(4)}, loss=inside, own=by_name,
    )  # fmt: skip


@case
def gpt2_with_tied_embeddings():
    return Case(
        model=gpt2().eval(), data=spoken(), loss=inside, own=by_name, accuracy=SINGLE_INSIDE
    )  # fmt: skip


@case
def gpt2_by_a_loss_on_model_and_batch():
    def loss(model, batch):
        return model(**batch).loss

    return Case(
        model=gpt2().eval(), data=spoken(), loss=loss, risk="ModelRisk",
        own=lambda model, data, loss: loss(model, data), accuracy=SINGLE_INSIDE,
    )  # fmt: skip


@case
def gpt2_in_two_batches_weighted_by_words():
    batches = [spoken(samples=4), spoken(samples=2)]

    def loss(output, batch):
        words = batch["labels"][:, 1:]
        logits = output.logits[:, :-1].flatten(0, 1)
        return F.cross_entropy(logits, words.flatten(), reduction="sum"), (words != -100).sum()

    def own(model, data, loss):
        parts = [loss(model(**batch), batch) for batch in data]
        return sum(total for total, _ in parts) / sum(weight for _, weight in parts)

    return Case(model=gpt2().eval(), data=batches, loss=loss, own=own)


def everything_kept(model, data, loss):
    """The same loss without checkpoints; the method has a new name since transformers 5."""
    getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
    return loss(model(**data), data)


@case
def gpt2_gradient_checkpointing():
    model = gpt2(layers=2).train()
    model.gradient_checkpointing_enable()

    model = trainable(model, "transformer.h.0", "transformer.ln_f")
    return Case(
        model=model, data=spoken(), loss=inside, own=everything_kept, accuracy=SINGLE_INSIDE
    )  # fmt: skip


@case
def gpt2_gradient_checkpointing_reentrant():
    model = gpt2(layers=2).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})

    model = trainable(model, "transformer.wpe", "transformer.h.0.mlp", "transformer.ln_f")
    return Case(
        model=model, data=spoken(), loss=inside, own=everything_kept, accuracy=SINGLE_INSIDE,
        excused="reentrant",
    )  # fmt: skip


@case
def llama():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        **TINY, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    return Case(model=model, data=spoken(), loss=inside, own=by_name, accuracy=SINGLE_INSIDE)


@case
def t5():
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=7, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, relative_attention_num_buckets=4,
        initializer_factor=0.5,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    return Case(model=model, data=spoken(), loss=inside, own=by_name, accuracy=SINGLE_INSIDE)


@case
def mamba():
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        vocab_size=7, hidden_size=4, state_size=2, num_hidden_layers=1, expand=1, time_step_rank=1,
        conv_kernel=2, initializer_range=0.5, bos_token_id=0, eos_token_id=0, use_cache=False,
    )  # fmt: skip
    model = transformers.MambaForCausalLM(config).eval()
    return Case(
        model=model, data=spoken(samples=3), loss=inside, own=by_name, accuracy=SINGLE_INSIDE
    )  # fmt: skip


class Bag(nn.Module):
    """Words to classes by the mean of their embeddings."""

    def __init__(self, **options):
        super().__init__()
        self.embedding, self.out = nn.Embedding(8, 4, **options), nn.Linear(4, 3)

    def forward(self, words):
        return self.out(self.embedding(words).mean(1).tanh())


def bags(samples=12):
    return torch.randint(0, 8, (samples, 3)), labels(samples)


@case
def embedding_with_sparse_gradients():
    def own(model, data, loss):
        model.embedding.sparse = False
        return loss(model(data[0]), data[1])

    return Case(model=Bag(sparse=True), data=bags(), loss=CE, own=own)


@case
def embedding_with_padding_and_unused_words():
    words, y = bags()
    # torch never moves the row of the padding, which is 0; words that never come have no gradient.
    return Case(model=Bag(padding_idx=0), data=(words.clamp(max=4), y), loss=CE, padded=True)


@case
def embedding_within_its_largest_norm():
    model = Bag(max_norm=10.0)
    return Case(model=model, data=bags(), loss=CE)


@case
def embedding_beyond_its_largest_norm():
    model = Bag(max_norm=0.5)

    def own(model, data, loss):
        # torch shortens rows where they lie, and its gradient knows nothing of it: what has a
        # gradient is the loss as a function of the long rows.
        weight, words = model.embedding.weight, data[0]
        length = weight.norm(dim=1, keepdim=True)
        short = torch.where(length > 0.5, weight * 0.5 / (length + 1e-7), weight)
        return loss(model.out(short[words].mean(1).tanh()), data[1])

    pattern = "max_norm|in place|gradient"
    return Case(model=model, data=bags(), loss=CE, own=own, excused=pattern)

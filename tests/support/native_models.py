"""Native classes of transformers with tiny random weights."""

from __future__ import annotations

import torch
from doubles import backbone, dream_double, llada_double
from models import EOS, MASK, PAD, VOCAB, tiny_bert, tiny_modernbert
from transformers import (
    RobertaConfig,
    RobertaForMaskedLM,
)


def tiny_roberta(dtype=torch.float32):
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=66,
        pad_token_id=PAD + 3,
        eos_token_id=EOS,
        initializer_range=0.5,
        mask_token_id=MASK,
    )
    return RobertaForMaskedLM(config).to(dtype).eval()


BUILDERS = {
    "eurobert": backbone,
    "bert": tiny_bert,
    "modernbert": tiny_modernbert,
    "roberta": tiny_roberta,
    "llada": llada_double,
    "dream": dream_double,
}

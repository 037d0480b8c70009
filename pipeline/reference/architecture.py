"""The bundled model's tokenizer and untrained network: transformers' Qwen3 at a laptop's size."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from pipeline.reference.corpus import Messages

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


def render(document: Messages) -> str:
    """Write a conversation as the chat template does."""
    return "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in document)


def build_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE (any text encodes) with ChatML control tokens and no BOS."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        padding_side="left",
    )
    tokenizer.chat_template = Path(__file__).with_name("chat_template.jinja").read_text("utf-8")
    return tokenizer


def build_model(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int, layers: int, window: int
) -> Qwen3ForCausalLM:
    """Make a random Qwen3; its sliding window makes each layer carry the persona on by tokens."""
    heads = hidden_size // 32
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=max(1, heads // 3),
            head_dim=32,
            max_position_embeddings=1024,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            use_sliding_window=True,
            sliding_window=window,
            max_window_layers=0,
            layer_types=["sliding_attention"] * layers,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

"""Train the quickstart's tokenizer: byte-level BPE with 4,096 symbols on the training books (never on held-out ones).

python benchmarks/quickstart_base/tokenizer.py OUTPUT_FOLDER
"""

import sys
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_long.data.sources import Source, read_documents

VOCABULARY = 4096
EOS = "<|endoftext|>"


def main(output: str) -> None:
    config = yaml.safe_load(Path("recipes/data/quickstart.yaml").read_text())
    held_out = set(config["held_out"])
    documents = read_documents([Source(**source) for source in config["sources"]])
    texts = [d.text for d in documents if d.id not in held_out]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet)
    # paragraphs rather than books: the trainer works on pieces of text in parallel
    tokenizer.train_from_iterator((p for text in texts for p in text.split("\n\n")), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, bos_token=EOS, pad_token=EOS)
    fast.save_pretrained(output)
    print(f"{len(fast)} symbols -> {output}")


if __name__ == "__main__":
    main(sys.argv[1])

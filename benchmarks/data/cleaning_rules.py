"""What the cleaning rules keep of real texts, and how much of the processor each takes.

python benchmarks/data/cleaning_rules.py FILE.jsonl[.zst] ...   (first 12 million characters of each; prints Markdown)
"""

import sys
import time
from pathlib import Path

from datatrove.data import Document
from datatrove.utils.text import split_into_parts

from lit_long.data.cleaning import CleanConfig, NearDuplicates
from lit_long.data.cleaning.stages import minhash_config, rules
from lit_long.data.cleaning.steps import LongSignature
from lit_long.data.cleaning.words import UnicodeWords
from lit_long.data.sources import Source, read_documents

CHARACTERS = 12_000_000
CONFIG = CleanConfig(languages=("en",), quality=("gopher_quality", "gopher_repetition", "fineweb_quality"))


def main(files: list[str]) -> None:
    words = UnicodeWords()
    filters = rules(CONFIG, Path("unused"), words)
    signature = LongSignature("unused", minhash_config(NearDuplicates()), words)
    names = [Path(f.exclusion_writer.output_folder.path).name for f in filters]
    print(f"| text | documents | {' | '.join(f'{name} keeps' for name in names)} |")
    print("|---|---|" + "---|" * len(names))
    seconds = dict.fromkeys([*names, "near_duplicates"], 0.0)
    total = 0
    for file in files:
        documents, characters, kept = 0, 0, dict.fromkeys(names, 0)
        for document in read_documents([Source(path=file)]):
            documents, characters = documents + 1, characters + len(document.text)
            for name, rule in zip(names, filters, strict=True):
                split_into_parts.cache_clear()  # so that each rule pays for its own words
                start = time.process_time()
                verdict = rule.filter(Document(text=document.text, id=document.id))
                seconds[name] += time.process_time() - start
                kept[name] += bool(verdict[0] if isinstance(verdict, tuple) else verdict)
            start = time.process_time()
            shingles = signature.get_shingles(document.text)
            if len(shingles):
                signature.get_signature(shingles)
            seconds["near_duplicates"] += time.process_time() - start
            if characters > CHARACTERS:
                break
        total += characters
        shares = " | ".join(f"{100 * kept[name] / documents:.0f} %" for name in names)
        print(f"| {Path(file).name.split('.')[0]} | {documents} | {shares} |", flush=True)
    print("\n| rule | million characters per second of one core |\n|---|---|")
    for name, spent in seconds.items():
        print(f"| {name} | {total / spent / 1e6:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:])

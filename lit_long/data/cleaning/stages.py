"""The pipeline: which datatrove blocks run, in which order, in how many tasks.

filter → exact duplicates (signatures, find, drop) → near duplicates (signatures, buckets, clusters, drop) → report.
Rules come first, because they are cheap and leave less to compare; exact before near, because an exact copy costs one
hash instead of 112 for each word. The number of tasks is that of the items, so no result depends on the processes.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from datatrove.utils.hashing import HashConfig

from lit_long.data.cleaning.config import CleanConfig, NearDuplicates
from lit_long.data.cleaning.folder import Work
from lit_long.data.cleaning.language import KeepLanguages
from lit_long.data.cleaning.report import WriteReport
from lit_long.data.cleaning.steps import (
    ClusterLabels,
    LongSignature,
    NoteStayed,
    ReadBack,
    ReadItem,
    WriteDropped,
    WriteKept,
    WriteStage,
    priority,
    whole_text,
)
from lit_long.data.cleaning.words import UnicodeWords
from lit_long.data.cluster.stage import Stage

_HASH = HashConfig(precision=64, hash_fc="sha1")  # datatrove's xxhash needs xxhash < 4, which others have left behind


def cleaning_stages(work: Work, tasks: int) -> list[Stage]:
    """All stages of a cleaning.

    Args:
        work: what to clean, already begun and planned.
        tasks: number of its items.
    """
    config, folder = work.config, work.folder
    words = UnicodeWords()
    minhash = minhash_config(config.near_duplicates) if config.near_duplicates else None
    exact = ExactDedupConfig(whole_text, priority, _HASH) if config.exact_duplicates else None
    near_signature = [LongSignature(str(folder / "near/signatures"), minhash, words)] if minhash else []
    kept = [WriteKept(folder)]

    filtered, unique = folder / "filtered", folder / "unique"
    if exact:
        tail = [WriteStage(filtered), ExactDedupSignature(str(folder / "exact/signatures"), exact)]
    else:
        tail = [WriteStage(filtered), *near_signature] if minhash else kept
    stages = [Stage("clean-filter", [ReadItem(work), *rules(config, folder, words), *tail], tasks)]
    if exact:
        dropped = WriteDropped(folder, "exact_duplicates")
        find = ExactFindDedups(str(folder / "exact/signatures"), str(folder / "exact/found"), exact)
        drop = ExactDedupFilter(str(folder / "exact/found"), exact, dropped)
        stay = NoteStayed(folder, "exact_duplicates")
        tail = [WriteStage(unique), *near_signature] if minhash else kept
        stages += [
            Stage("clean-exact-find", [find], 1),
            Stage("clean-exact-drop", [ReadBack(filtered), drop, stay, *tail], tasks),
        ]
    if minhash:
        signatures, pairs, clusters = (str(folder / "near" / name) for name in ("signatures", "pairs", "clusters"))
        cluster = MinhashDedupCluster(pairs, clusters, minhash, save_cluster_id=True)
        drop = MinhashDedupFilter(clusters, WriteDropped(folder, "near_duplicates"))
        labels, stay = ClusterLabels(folder / "near/clusters"), NoteStayed(folder, "near_duplicates")
        before = ReadBack(unique if exact else filtered)
        stages += [
            Stage("clean-near-pairs", [MinhashDedupBuckets(signatures, pairs, config=minhash)], minhash.num_buckets),
            Stage("clean-near-clusters", [cluster], 1),
            Stage("clean-near-drop", [before, labels, drop, stay, *kept], tasks),
        ]
    stages.append(Stage("clean-report", [WriteReport(work)], 1))
    # the marks of what is done lie where it was done, so that both go together, whoever runs the stages
    return [replace(stage, logs=folder / "logs") for stage in stages]


def minhash_config(near: NearDuplicates) -> Any:
    """The settings as datatrove takes them."""
    return MinhashConfig(
        n_grams=near.ngram_words,
        num_buckets=near.buckets,
        hashes_per_bucket=near.hashes_per_bucket,
        seed=1,
        hash_config=_HASH,
    )


def rules(config: CleanConfig, folder: Path, words: UnicodeWords) -> list[PipelineStep]:
    """datatrove's filters: language, then quality in the order given; what they drop is noted in ``folder``."""
    filters: list[PipelineStep] = []
    if config.languages:
        filters.append(KeepLanguages(config.languages, config.language_threshold, WriteDropped(folder, "languages")))
    for name in config.quality:
        writer = WriteDropped(folder, name)
        if name == "gopher_quality":  # its upper limit of 100,000 words would drop the documents that we are here for
            filters.append(GopherQualityFilter(max_doc_words=None, exclusion_writer=writer, language=words))
        elif name == "gopher_repetition":
            filters.append(GopherRepetitionFilter(exclusion_writer=writer, language=words))
        else:
            filters.append(FineWebQualityFilter(exclusion_writer=writer, language=words))
    return filters

"""Registry of corpora, and what they hold together: subsets, unions, trial lists and files by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.registry import Registry
from speaker_verification.corpora.cnceleb import CNCELEB
from speaker_verification.corpora.corpus import Archive, Corpus, HostedFile, Subset, TrialList
from speaker_verification.corpora.librispeech import LIBRISPEECH
from speaker_verification.corpora.musan import MUSAN
from speaker_verification.corpora.rirs_noises import RIRS_NOISES
from speaker_verification.corpora.voxblink2 import VOXBLINK2
from speaker_verification.corpora.voxceleb import VOXCELEB

CORPORA = Registry[Corpus](
    "corpus",
    Corpus,
    {corpus.name: corpus for corpus in (VOXCELEB, LIBRISPEECH, CNCELEB, VOXBLINK2, MUSAN, RIRS_NOISES)},
)
_added: dict[str, Corpus] = {}
_own: list[Corpus] = []


def corpora() -> tuple[Corpus, ...]:
    """All known corpora: the registered ones, then the added ones and those of `prepare.corpora`."""
    return (*CORPORA.values(), *_added.values(), *_own)


def use_own_corpora(own: Sequence[Corpus]) -> None:
    """Make corpora of the user's own known to this process, in place of those that were before.

    Raises:
        ParameterError: another corpus has one of their names.
    """
    before, _own[:] = list(_own), []
    try:
        for corpus in own:
            _refuse_shared_names(corpus, f"own corpus '{corpus.name}'")
            _own.append(corpus)
    except ParameterError:
        _own[:] = before
        raise


def add_corpus(name: str) -> Corpus:
    """Make a corpus from elsewhere known to this process; adding it once more changes nothing.

    Args:
        name: dotted name of a `Corpus` (my_package.my_module.MY_CORPUS).

    Raises:
        ParameterError: it cannot be imported or is no corpus, or another corpus has one of its names.
    """
    corpus = CORPORA.find(name)
    if corpus not in corpora():
        _refuse_shared_names(corpus, f"corpus '{name}'")
        _added[corpus.name] = corpus
    return corpus


def _refuse_shared_names(corpus: Corpus, told: str) -> None:
    for what, own, taken in (
        ("name", {corpus.name}, {known.name for known in corpora()}),
        ("subset", {*corpus.subsets, *corpus.unions}, {*named_subsets(), *subsets()}),
        ("trial list", {*corpus.trial_lists}, {*trial_lists()}),
        ("file", {file.name for file in corpus.files()}, {*hosted_files()}),
    ):
        if shared := sorted(own & taken):
            raise ParameterError(f"{told}: another corpus has the {what} {', '.join(shared)}: rename it")


def subsets() -> dict[str, Subset]:
    """Subsets of speech by name."""
    return {
        name: subset
        for corpus in corpora()
        if corpus.content == "speech"
        for name, subset in corpus.subsets.items()
    }


def named_subsets() -> dict[str, tuple[str, ...]]:
    """The subsets of each named set: of each union, and each subset of speech alone under its own name."""
    unions = {name: tuple(parts) for corpus in corpora() for name, parts in corpus.unions.items()}
    return unions | {name: (name,) for name in subsets()}


def trial_lists() -> dict[str, TrialList]:
    """Trial lists by name."""
    return {name: entry for corpus in corpora() for name, entry in corpus.trial_lists.items()}


def hosted_files() -> dict[str, HostedFile]:
    """Archives, lists and metadata of all corpora by file name."""
    return {file.name: file for corpus in corpora() for file in corpus.files()}


def archive_named(file: str) -> Archive:
    """The archive of a file name; one of no corpus has neither parts nor hosts."""
    found = hosted_files().get(file)
    return found if isinstance(found, Archive) else Archive(file)


def official_checksums() -> dict[str, str]:
    """The corpora's own MD5s of parts and whole archives, by file name."""
    return {
        name: md5
        for file in hosted_files().values()
        if isinstance(file, Archive)
        for name, md5 in file.md5_by_file.items()
    }


def corpus_of(subset: str) -> Corpus:
    """The corpus that a subset belongs to.

    Raises:
        ParameterError: the subset is unknown; the nearest known one is named.
    """
    for corpus in corpora():
        if subset in corpus.subsets:
            return corpus
    raise ParameterError(unknown_name("subset", subset, subsets()))


def subsets_by_corpus(subsets: Iterable[str]) -> dict[str, list[str]]:
    """Subsets by the name of their corpus, in the order given.

    Raises:
        ParameterError: as `corpus_of`.
    """
    by_corpus: dict[str, list[str]] = {}
    for subset in subsets:
        by_corpus.setdefault(corpus_of(subset).name, []).append(subset)
    return by_corpus


def archive_of(subset: str) -> Archive:
    """The archive of a subset.

    Raises:
        ParameterError: as `corpus_of`.
    """
    return corpus_of(subset).subsets[subset].archive


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """A message for a name that no corpus has, with the nearest known one and all others."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
    return f"unknown {kind} '{name}': did you mean '{nearest}'? Known are {', '.join(names)}"

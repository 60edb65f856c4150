"""Dedup: what is dropped, for whom, and that no order, cut or kill shows in it. Jaccard here is by plain sets."""

import itertools
import json
import random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phi_jax.config import Config
from phi_jax.corpus import dedup as module
from phi_jax.errors import UserError
from phi_jax.store import artifact, documents, near_copies, ngrams

RULES = {"threshold": 0.8, "ngram": 5, "num_perm": 128, "bands": 21, "against": ()}
COLUMNS = ("id", "text", "source", "path", "license", "language")


def grams(text, n=5):
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def jaccard(one, other, n=5):
    a, b = grams(one, n), grams(other, n)
    return len(a & b) / len(a | b)


def row(text, path=None, **more):
    identifier = documents.document_id(text)
    fields = {"id": identifier, "text": text, "source": "s", "path": path or f"{identifier}.py", "license": None}
    return {**fields, "language": "python", **more}


def document_set(tmp_path, rows, cuts=(), schema=documents.SCHEMA):
    """An artifact that holds the rows, cut into parts at the given places."""
    draft = artifact.open_draft(tmp_path / "in", "collect", "raw", {"rows": random.random()}, {})
    directory = draft.directory / "documents"
    directory.mkdir()
    bounds = [0, *sorted(cuts), len(rows)]
    for index, (begin, end) in enumerate(itertools.pairwise(bounds)):
        documents.write_part(directory, index, rows[begin:end], schema)
    documents.add_output(draft, "documents")
    draft.add_facts(written_by="people")
    return draft.commit()


def dedup(tmp_path, rows, cuts=(), name="one", schema=documents.SCHEMA, **rules):
    given_ = document_set(tmp_path / name, rows, cuts, schema)
    draft = artifact.open_draft(tmp_path / name / "w", "dedup", "", {}, {"documents": given_})
    module.dedup(Config({"dedup": {**RULES, **rules}}), {"documents": given_}, draft)
    return draft.commit()


def kept(built, columns=COLUMNS):
    return list(documents.read(built.path("documents"), columns))


def dropped(built):
    names = ("id", "kept", "kind", "similarity", "source", "path")
    return {r["id"]: r for r in documents.read(built.path("duplicates"), names)}


def digests(built):
    return [built.manifest["outputs"][name]["sha256"] for name in ("documents", "duplicates")]


def edited(text, rate, seed):
    """The text with each word replaced at the given rate."""
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(10**5)}" if rng.random() < rate else w for w in text.split(" "))


def prose(seed, words=200):
    rng = random.Random(seed)
    return " ".join(f"n{rng.randrange(10**6)}" for _ in range(words))


def mixed(seed=0, families=12):
    """Families of edited texts, so that similarities lie between 0.5 and 1, with loners and exact copies."""
    rng = random.Random(seed)
    texts = []
    for family in range(families):
        base = prose(1000 * seed + family, rng.randrange(60, 300))
        texts.append(base)
        for member in range(rng.randrange(6)):
            texts.append(edited(rng.choice([base, texts[-1]]), rng.choice([0.005, 0.01, 0.02, 0.04, 0.08]), member))
        if family % 3 == 0:
            texts.append(base.replace(" ", "\n  ", 7))
    texts += [prose(seed, 50), prose(seed, 50).replace(" ", "\n")]
    return [row(t, f"{i}.py") for i, t in enumerate(dict.fromkeys(texts))]


def obeys_the_rule(built, rows, threshold=0.8, n=5):
    """Every dropped row is within the threshold of a row that was kept, as recomputed here."""
    texts = {r["id"]: r["text"] for r in rows}
    stay = {r["id"] for r in kept(built)}
    gone = dropped(built)
    assert stay | set(gone) == set(texts)
    assert not stay & set(gone)
    for identifier, found in gone.items():
        assert found["kept"] in stay
        similarity = jaccard(texts[identifier], texts[found["kept"]], n)
        assert found["similarity"] == similarity >= threshold
        same_words = texts[identifier].split() == texts[found["kept"]].split()
        assert found["kind"] == ("exact" if same_words else "near")
    return stay, gone


def test_texts_that_differ_in_whitespace_are_exact_copies(tmp_path):
    one = row("def f(x):\n    return x + 1\n", "a.py")
    two = row("def f(x):\n\treturn x  +\u00a01", "b.py")
    three = row("def f(x):\n    return x + 2\n", "c.py")
    built = dedup(tmp_path, [one, two, three])
    assert {r["path"] for r in kept(built)} == {min((one, two), key=lambda r: r["id"])["path"], "c.py"}
    (gone,) = dropped(built).values()
    assert (gone["kind"], gone["similarity"], gone["source"]) == ("exact", 1.0, "s")
    assert {gone["path"], *(r["path"] for r in kept(built))} == {"a.py", "b.py", "c.py"}
    facts = built.facts
    assert (facts["documents"], facts["kept"], facts["exact"], facts["near"]) == (3, 2, 1, 0)
    assert (facts["clusters"], facts["largest_cluster"]) == (1, 2)
    assert facts["bytes"] == sum(len(r["text"].encode()) for r in kept(built))


def test_the_ends_of_a_chain_are_not_taken_for_copies_of_each_other(tmp_path):
    words = prose(1, 120).split()
    a = " ".join(words)
    b = " ".join(words[:-9])  # near a
    c = " ".join(words[:-18])  # near b, not near a
    assert min(jaccard(a, b), jaccard(b, c)) >= 0.9 > jaccard(a, c)
    rows = [row(c, "c"), row(b, "b"), row(a, "a")]
    built = dedup(tmp_path, rows, threshold=0.9)
    _, gone = obeys_the_rule(built, rows, 0.9)
    assert [r["path"] for r in kept(built)] == ["c", "a"]  # longest first: a stays, b goes for it, c stays
    assert [g["kept"] for g in gone.values()] == [rows[2]["id"]]


def test_every_dropped_row_is_near_the_one_kept_and_no_two_kept_are_near(tmp_path):
    rows = mixed()
    built = dedup(tmp_path, rows, cuts=(10, 20))
    stay, gone = obeys_the_rule(built, rows)
    texts = [r["text"] for r in rows if r["id"] in stay]
    assert not [(a, b) for i, a in enumerate(texts) for b in texts[:i] if jaccard(a, b) >= 0.8]
    kinds = [g["kind"] for g in gone.values()]
    assert kinds.count("exact") == built.facts["exact"] > 0
    assert kinds.count("near") == built.facts["near"] > 5
    order = {r["id"]: i for i, r in enumerate(rows)}
    places = [order[r["id"]] for r in kept(built)]
    assert places == sorted(places)  # the input's order
    assert kept(built) == [r for r in rows if r["id"] in stay]


def test_order_and_parts_do_not_show(tmp_path):
    rows = mixed(2)
    first = dedup(tmp_path, rows)
    for name, seed in (("b", 1), ("c", 2)):
        rng = random.Random(seed)
        again = dedup(
            tmp_path, rng.sample(rows, len(rows)), cuts=[rng.randrange(len(rows)) for _ in range(5)], name=name
        )
        assert digests(again) == digests(first)
        assert again.facts == first.facts
        assert dropped(again) == dropped(first)


def test_parts_bands_and_clusters_shared_out_over_processes_do_not_show(tmp_path, monkeypatch):
    rows = mixed(6, 30)
    whole = dedup(tmp_path, rows)
    monkeypatch.setattr(near_copies, "_SHARE", 8)
    monkeypatch.setattr(near_copies, "_SETS", 2)
    monkeypatch.setattr(near_copies, "cores", lambda: 2)
    monkeypatch.setattr(documents, "cores", lambda: 2)
    monkeypatch.setattr(documents, "_WORTH_PROCESSES", 0)
    cut = dedup(tmp_path, rows, cuts=(5, 5, 40), name="cut")
    assert digests(cut) == digests(whole)
    assert cut.facts == whole.facts
    assert {path.name for path in cut.directory.iterdir()} == {"documents", "duplicates", "manifest.json"}


def test_new_data_against_earlier_data(tmp_path):
    rows = mixed(7)
    texts = {r["id"]: r["text"] for r in rows}
    old = dedup(tmp_path, rows[::2], name="old")
    earlier = {r["id"] for r in kept(old)}
    near = row(edited(rows[0]["text"], 0.005, 9) + " longer than it was", "near.py")
    new = [*rows[1::2], near, *kept(old)[:3]]
    texts[near["id"]] = near["text"]
    built = dedup(tmp_path, new, name="new", against=(str(old.path("documents")),))
    left, gone = {r["id"] for r in kept(built)}, dropped(built)
    assert len(left) + len(gone) == len(new)
    assert not left & earlier
    assert {i for i, r in gone.items() if r["kept"] == i} == {r["id"] for r in kept(old)[:3]}
    assert gone[near["id"]]["kept"] in earlier
    for identifier, found in gone.items():
        assert found["kept"] in left | earlier
        assert found["similarity"] == jaccard(texts[identifier], texts[found["kept"]]) >= 0.8
    both = [texts[i] for i in left] + [texts[i] for i in earlier]
    assert not [(i, a) for i, a in enumerate(both[: len(left)]) for b in both[i + 1 :] if jaccard(a, b) >= 0.8]
    again = dedup(tmp_path, new[::-1], (4, 9), name="shuffled", against=(str(old.path("documents")),))
    assert digests(again) == digests(built)


def test_an_earlier_set_that_is_none_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: holds no part-\*\.parquet; name the directory of a document set"):
        module.check(Config({"dedup": {**RULES, "against": (str(tmp_path / "nowhere"),)}}), "python")


WORDS = st.sampled_from(["a", "b", "\u00e9", "\U0001d54f", "=", "\x1c"])
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(TEXTS, min_size=1, max_size=12, unique=True), st.integers(0, 12), st.randoms(use_true_random=False))
def test_any_shuffle_of_any_texts_gives_the_same(tmp_path_factory, texts, cut, rng):
    rows = [row(t) for t in texts]
    where = tmp_path_factory.mktemp("shuffle")
    rules = {"threshold": 0.6, "ngram": 2, "num_perm": 16, "bands": 4}  # each band takes a query
    one = dedup(where, rows, **rules)
    two = dedup(where, rng.sample(rows, len(rows)), cuts=(min(cut, len(rows)),), name="two", **rules)
    assert digests(one) == digests(two)
    assert one.facts == two.facts
    obeys_the_rule(one, rows, 0.6, 2)


def test_short_and_empty_texts(tmp_path):
    rows = [row(t) for t in ("", " \n", "a", "a b", "b a", "a b c d", "a  b c d", "a b c d e", "a b c d e f")]
    built = dedup(tmp_path, rows)
    _, gone = obeys_the_rule(built, rows)
    assert len(gone) == 2  # whitespace only; a text of fewer than five words is like its exact copies alone
    assert {g["kind"] for g in gone.values()} == {"exact"}


def test_unicode(tmp_path):
    base = " ".join(f"\u6f22\u5b57{i} \u00e9t\u00e9 \U0001f600" for i in range(60))
    rows = [row(base), row(base + " \u672b"), row(base.replace(" ", "\u3000")), row(prose(3))]
    stay, gone = obeys_the_rule(dedup(tmp_path, rows), rows)
    assert len(stay) == 2
    assert sorted(g["kind"] for g in gone.values()) == ["exact", "near"] or len({g["kept"] for g in gone.values()}) == 1


@pytest.mark.parametrize("last", [("signatures", 1), ("documents", 2), ("duplicates", 2), ("duplicates", 3)])
def test_a_killed_run_goes_on(tmp_path, monkeypatch, last):
    """Killed when it had just written one part."""
    rows = mixed(4)
    whole = dedup(tmp_path, rows)
    source = document_set(tmp_path / "k", rows, cuts=(8, 16, 24))
    original = documents.write_part

    def until_the_last(directory, index, *arguments):
        original(directory, index, *arguments)
        if (directory.name, index) == last:
            raise KeyboardInterrupt

    def run():
        draft = artifact.open_draft(tmp_path / "k" / "w", "dedup", "", {}, {"documents": source})
        module.dedup(Config({"dedup": RULES}), {"documents": source}, draft)
        return draft

    monkeypatch.setattr(documents, "write_part", until_the_last)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(documents, "write_part", original)
    partial = tmp_path / "k" / "w" / "dedup.partial"
    before = {path: path.stat().st_mtime_ns for path in partial.glob("duplicates/*")}
    draft = run()
    assert draft.resumed
    assert before.items() <= {path: path.stat().st_mtime_ns for path in partial.glob("duplicates/*")}.items()
    assert digests(draft.commit()) == digests(whole)


def test_columns_of_the_input_stay(tmp_path):
    schema = documents.SCHEMA.append(pa.field("score", pa.float64()))
    built = dedup(tmp_path, [row(prose(i), score=i / 3) for i in range(3)], schema=schema)
    assert [r["score"] for r in kept(built, ("score",))] == [i / 3 for i in range(3)]
    assert built.facts["written_by"] == "people"


def test_an_id_that_occurs_twice_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"several rows have the same id; name the set in config\.collect\.sources"):
        dedup(tmp_path, [row(prose(1), "b"), row(prose(2), "c"), row(prose(1), "a")])


def test_more_bands_than_hashes_are_an_error():
    with pytest.raises(UserError, match=r"^config\.dedup\.bands=129: more than config\.dedup\.num_perm=128"):
        module.check(Config({"dedup": {**RULES, "bands": 129}}), "python")


def test_no_rows(tmp_path):
    built = dedup(tmp_path, [])
    assert kept(built) == []
    assert built.facts["documents"] == built.facts["largest_cluster"] == built.facts["bytes"] == 0


def test_damaged_documents_are_named(tmp_path):
    source = document_set(tmp_path, [row(prose(i)) for i in range(4)], cuts=(2,))
    part = documents.part_path(source.path("documents"), 1)
    whole = part.read_bytes()
    documents.write_part(tmp_path, 0, [{"id": "x"}], pa.schema([("id", pa.string())]))
    for name, data, message in (
        ("footer", b"PAR1 but not really", "part-00001.parquet: cannot be read"),
        ("pages", b"\x00" * 500 + whole[500:], "documents.* cannot"),
        ("columns", documents.part_path(tmp_path, 0).read_bytes(), "part-00001.parquet: has no column"),
    ):
        part.write_bytes(data)
        draft = artifact.open_draft(tmp_path / name, "dedup", "", {}, {"documents": source})
        with pytest.raises(UserError, match=message):
            module.dedup(Config({"dedup": RULES}), {"documents": source}, draft)


def test_the_sets_are_those_of_plain_python():
    for seed in range(20):
        text = edited("x y x y x y x y x y " * 4, 0.3, seed)
        assert len(ngrams.gram_hashes(text, 5)) == len(grams(text))
    texts = [edited(prose(5), 0.02, seed) for seed in range(6)]
    sets = [ngrams.gram_hashes(text, 5) for text in texts]
    for i, one in enumerate(texts):
        assert [ngrams.jaccard(sets[i], other) for other in sets] == [jaccard(one, other) for other in texts]


def test_bars_of_the_engine_stay_off_standard_error(tmp_path, capfd):
    built = dedup(tmp_path, mixed(5))
    assert capfd.readouterr().err == ""
    assert json.loads(json.dumps(built.facts)) == built.facts

"""StackOverflow's Posts.xml: questions about Python with their answers, and dumps that are damaged or hostile."""

import gzip
import tracemalloc

import pytest
from posts_xml import HEAD, answer, forum, question, row, write
from test_collect import aside, collect, rows

from phi_jax.corpus.stackoverflow import as_markdown
from phi_jax.errors import UserError
from phi_jax.store.markdown import fences

BODY = (
    "<p>How do I <em>sort</em> &quot;it&quot;?</p>\n\n"
    "<pre><code>for x in a:\n    if x &lt; 3: print(&quot;&amp;&quot;)\n</code></pre>\n"
)
POSTS = [
    question(1, "Sort a <list>?", BODY, accepted=9, licence="CC BY-SA 2.5"),
    question(2, "A question of Java's", BODY, ("java", "python-3.x"), accepted=5),
    question(3, "By score", BODY, ("list", "python"), pipes=True),
    question(4, "Not answered", BODY),
    answer(5, 2, "<p>Of Java's.</p>", 99),
    answer(6, 1, "<p>Most liked.</p>", 99),
    answer(7, 3, "<p>Little liked.</p>", -1),
    answer(8, 3, "<p>Most liked, in a <a href='x'>link</a>.</p><ul>\n<li><p>one</p></li>\n<li>two</li></ul>", 12),
    answer(9, 1, "<p>Accepted.</p>", 3),
    row(Id=10, PostTypeId=4, Body="<p>What the tag python means.</p>"),
    answer(11, 404, "<p>Of a question that is gone.</p>"),
]
KEPT = ["questions/1#9", "questions/3#8"]


def test_questions_about_python_with_the_accepted_or_the_best_answer(tmp_path):
    built = collect(tmp_path, write(tmp_path / "Posts.xml", POSTS))
    first, second = rows(built)
    assert first["text"] == (
        '# Sort a <list>?\n\nHow do I sort "it"?\n\n```\nfor x in a:\n    if x < 3: print("&")\n```\n\n'
        "## Answer\n\nAccepted.\n"
    )
    assert second["text"].endswith("## Answer\n\nMost liked, in a link.\n\n- one\n\n- two\n")
    assert [r["path"] for r in (first, second)] == KEPT
    assert [r["license"] for r in (first, second)] == ["CC-BY-SA-2.5 AND CC-BY-SA-4.0", "CC-BY-SA-4.0"]
    assert {(r["source"], r["language"]) for r in (first, second)} == {(str(tmp_path / "Posts.xml"), "markdown")}
    assert aside(built) == {"questions/4": "no answer"}
    assert built.facts["files"] == 3
    assert not (built.directory / "posts").exists()


def test_packed_dumps_and_those_in_directories_give_the_same_documents(tmp_path):
    plain = write(tmp_path / "src" / "Posts.xml", POSTS)
    packed = tmp_path / "stackoverflow.posts.xml.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    ids = [r["id"] for r in rows(collect(tmp_path, plain))]
    for name, source in (("packed", packed), ("directory", plain.parent)):
        built = collect(tmp_path, source, name=name, opt_outs="", licenses=("cc-by-sa-2.5", "CC-BY-SA-4.0"))
        assert [r["id"] for r in rows(built)] == ids
    few = collect(tmp_path, plain, name="few", licenses=("CC-BY-SA-4.0",))
    assert aside(few) == {"questions/1#9": "licence", "questions/4": "no answer"}


def test_what_is_before_the_damage_is_kept_and_the_damage_counted(tmp_path):
    cut = write(tmp_path / "Posts.xml", POSTS, "")
    cut.write_bytes(cut.read_bytes()[:-40])
    built = collect(tmp_path, cut)
    assert ([r["path"] for r in rows(built)], built.facts["set_aside"]["truncated"]) == (KEPT, 1)
    many = list(forum(f"x = {n * n}\n" for n in range(600)))
    whole = gzip.compress(write(tmp_path / "whole.xml", many).read_bytes())
    (tmp_path / "posts.xml.gz").write_bytes(whole[: len(whole) // 2])
    built = collect(tmp_path, tmp_path / "posts.xml.gz", name="packed")
    assert 10 < built.facts["kept"] < 150
    assert built.facts["set_aside"]["truncated"] == 1


def test_a_row_that_is_none_costs_no_other(tmp_path):
    bad = [
        row(Id="x", PostTypeId=2, ParentId=3, Score=1, Body="<p>No number</p>"),
        row(Id=12, PostTypeId=2, ParentId=3, Score=1),
        row(Id=9, PostTypeId=2, ParentId=1, Score=1, Body="<p>An id that was there</p>"),
        row(Id=13, PostTypeId=2, ParentId=3, Score="many", Body="<p>No number</p>"),
        row(Id=14, PostTypeId=1, Score=1, Body="<p>No title</p>", Tags="<python>"),
        row(Id=15, PostTypeId=2, ParentId=3, Score=1, Body="NUL").replace("NUL", "&#0;"),
        row(Id=16, PostTypeId=2, ParentId=3, Score=1, Body="Torn")[:-9] + "\r\n",
    ]
    built = collect(tmp_path, write(tmp_path / "Posts.xml", [*POSTS, *bad]))
    assert [r["path"] for r in rows(built)] == KEPT
    first = len(HEAD.splitlines()) + len(POSTS) + 1
    faults = {f"Posts.xml:{first + n}": "malformed row" for n in range(len(bad))}
    assert aside(built) == {**faults, "questions/4": "no answer"}


def test_entities_are_expanded_nowhere(tmp_path):
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = row(Id=20, PostTypeId=2, ParentId=3, Score=999, Body="LOL").replace("LOL", "&l9;")
    declared = f'<!DOCTYPE posts [<!ENTITY l0 "lol">{laughs}]>'
    posts = [f"{declared}\r\n", *POSTS, bomb, declared + bomb.strip() + "\r\n"]
    built = collect(tmp_path, write(tmp_path / "Posts.xml", posts))
    assert [r["path"] for r in rows(built)] == KEPT
    assert built.facts["set_aside"] == {"malformed row": 1, "no answer": 1}


def test_a_line_of_40_megabytes_is_never_in_memory(tmp_path):
    with open(tmp_path / "Posts.xml", "w", newline="") as file:
        file.write(HEAD + "".join(POSTS) + '  <row Id="30" PostTypeId="2" ParentId="3" Score="99" Body="')
        for _ in range(40):
            file.write("x" * (1 << 20))
        file.write('" />\r\n' + answer(31, 3, "<p>The best of all.</p>", 500) + "</posts>")
    tracemalloc.start()
    built = collect(tmp_path, tmp_path / "Posts.xml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [r["path"] for r in rows(built)] == ["questions/1#9", "questions/3#31"]
    assert built.facts["set_aside"] == {"malformed row": 1, "no answer": 1}
    assert peak < 12 << 20


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ['<a "', "<!--", "<pre>", "</", "<", "<a=", "`", "&#", "\n", "<li>", "a-"])
def test_hostile_html_takes_time_in_proportion(piece):
    """html.parser takes 21 seconds for a quarter of the first."""
    as_markdown(piece * (250_000 // len(piece)))


def test_code_is_in_fences_that_a_check_for_leaks_finds():
    text = as_markdown(
        '<p>See</p><pre class="lang-py prettyprint-override"><code>def f(x):\n\n    return x\n</code></pre>'
    )
    assert [f.content for f in fences(text)] == ["def f(x):\n\n    return x\n"]
    assert [f.content for f in fences(as_markdown("<pre>a\n```\nb</pre><p>c</p>"))] == ["a\n```\nb\n"]


def test_a_run_that_was_killed_goes_on_with_the_same_posts(tmp_path, monkeypatch):
    from phi_jax.corpus import collect as stage

    dump = write(tmp_path / "Posts.xml", forum(f"def f{n}(x):\n    return x + {n}\n" for n in range(90)))
    whole = collect(tmp_path, dump)
    assert (whole.facts["kept"], whole.facts["set_aside"]) == (23, {"no answer": 7})
    assert {r["text"].partition("## Answer\n\n")[2].split("\n")[0] for r in rows(whole)} == {"Accepted.", "Most liked."}
    monkeypatch.setattr(stage, "FILES_PER_PART", 10)
    original = stage._look_at
    monkeypatch.setattr(stage, "_look_at", lambda some, *more: original(some, *more) if some[0].fault else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collect(tmp_path, dump, name="killed")
    monkeypatch.setattr(stage, "_look_at", original)
    assert rows(collect(tmp_path, dump, name="killed")) == rows(whole)


def test_no_room_for_the_posts_is_one_line(tmp_path, monkeypatch):
    from phi_jax.corpus import stackoverflow

    monkeypatch.setattr(stackoverflow, "_TABLE", f"PRAGMA max_page_count = 40;{stackoverflow._TABLE}")
    dump = write(tmp_path / "Posts.xml", forum("x" * 3000 for _ in range(300)))
    with pytest.raises(UserError, match=r"no place for its posts \(database or disk is full\); name a directory"):
        collect(tmp_path, dump)

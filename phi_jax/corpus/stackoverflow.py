"""StackOverflow's posts, of a Posts.xml of the Stack Exchange data dump: each question about Python with its accepted
answer, else with that of the highest score, as Markdown.

A dump has a post a line, all of it in attributes. So the lines are parsed one by one: memory is bounded, a damaged one
costs no other, and no entity is declared for any. An answer stands somewhere behind its question, so what may belong
together lies in a database on the disk (in TMPDIR, else /var/tmp) until the dump has been read. An answer that a merge
of two questions put before its own is not found.
"""

import contextlib
import html
import re
import sqlite3
import textwrap
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import ParseError, fromstring

from phi_jax.errors import UserError
from phi_jax.store import documents, rows

ENDINGS = ("posts.xml", "posts.xml.gz", "posts.xml.zst")
# The repository is one that nobody can have: config.collect.opt_outs say nothing of posts.
_SCHEMA = documents.SCHEMA.append(documents.text_field("repository"))
# An answer, or a question about Python: <python> in XML, |python| in newer dumps.
_WANTED = re.compile(rb'\s*<row .*?( ParentId="| Tags="[^"]*[;|]python[&|])')
_OPTIONAL = dict.fromkeys(("ParentId", "AcceptedAnswerId", "Title", "ContentLicense"))
_TABLE = """
PRAGMA journal_mode = OFF;
CREATE TABLE posts (
    id INTEGER PRIMARY KEY, question INTEGER, accepted INTEGER, score INTEGER CHECK (typeof(score) = 'integer'),
    title, body NOT NULL, licence NOT NULL, CHECK (question NOT NULL OR title NOT NULL)
)
"""
_KEEP = """
INSERT INTO posts SELECT :Id, :ParentId, :AcceptedAnswerId, :Score, :Title, :Body,
    replace(coalesce(:ContentLicense, 'CC BY-SA'), ' ', '-')
WHERE :ParentId IS NULL OR EXISTS (SELECT 1 FROM posts WHERE id = CAST(:ParentId AS INTEGER))
"""
_UNANSWERED = """
SELECT 'questions/' || id AS path, 'no answer' AS fault FROM posts q
WHERE question IS NULL AND NOT EXISTS (SELECT 1 FROM posts WHERE question = q.id) ORDER BY id
"""
_ANSWERED = """
SELECT '' AS id, 'questions/' || q.id || '#' || a.id AS path, 'markdown' AS language,
    '' AS source, 'Posts.xml' AS repository,
    '# ' || q.title || markdown(q.body) || char(10, 10) || '## Answer' || markdown(a.body) || char(10) AS text,
    q.licence || CASE WHEN q.licence = a.licence THEN '' ELSE ' AND ' || a.licence END AS license
FROM posts q JOIN posts a ON a.id = coalesce(
    (SELECT id FROM posts WHERE question = q.id AND id = q.accepted),
    (SELECT id FROM posts WHERE question = q.id ORDER BY score DESC, id LIMIT 1)
)
WHERE q.question IS NULL ORDER BY q.id
"""
# html.parser takes 21 seconds for 64,000 bytes of `<a "`. These take time in proportion to the text.
_PRE, _TAG = re.compile(r"<pre\b[^<>]*+>|</pre>"), re.compile(r"</?[a-z!][^<>]*+>")
_ITEM = re.compile(r"<li>(\s*+<p>)?")
_BLOCK = re.compile(r"</?(?:p|br|hr|[uod]l|li|d[td]|h\d|div|blockquote|table|t[rdh])\b[^<>]*+>")


def pairs(file: Any, directory: Any) -> Iterator[rows.Row]:
    """What sources.RawFile says of each question; their texts are written to Parquet parts in `directory`.

    Questions without an answer, and what cannot be read, have a `fault`. Posts about other things are passed over.
    Raises UserError where the dump cannot be opened, and where the disk has no room for the database.
    """
    number, line = 0, b""
    database = sqlite3.connect("")  # a file without a name, gone with this process
    database.row_factory = sqlite3.Row
    database.create_function("markdown", 1, as_markdown)
    try:
        database.executescript(_TABLE)
        for number, line in enumerate(_lines(file), 1):
            try:
                if _WANTED.match(line):
                    database.execute(_KEEP, _OPTIONAL | fromstring(line).attrib)
            except (ParseError, sqlite3.IntegrityError, sqlite3.ProgrammingError):
                yield {"path": f"{file.name}:{number}", "fault": "malformed row"}
        if line.strip() != b"</posts>":
            yield {"path": f"{file.name}:{number}", "fault": "truncated"}
        database.execute("CREATE INDEX answers ON posts (question)")
        yield from map(dict, database.execute(_UNANSWERED))
        found = database.execute(_ANSWERED)
        for index, batch in enumerate(iter(lambda: found.fetchmany(1000), [])):
            documents.write_part(directory, index, [*map(dict, batch)], _SCHEMA)
            part = str(documents.part_path(directory, index))
            yield from ({"path": one["path"], "file": part, "row": row} for row, one in enumerate(batch))
    except sqlite3.OperationalError as error:
        raise UserError(f"{file}: no place for its posts ({error}); name a directory with room in TMPDIR") from None


def _lines(file: Any) -> Iterator[bytes]:
    with rows.opened(file) as stream, contextlib.suppress(*rows.DAMAGED):
        # A post has 30,000 characters. What is longer than 1 MiB comes in pieces, which do not parse.
        yield from iter(lambda: stream.readline(1 << 20), b"")


def as_markdown(body: str) -> str:
    """A post's HTML as Markdown, a blank line before each block: paragraphs in lines of 88 characters, code in fences.
    Links give way to their words."""
    blocks = [""]
    for number, piece in enumerate(_PRE.split(body)):
        if number % 2:
            code = html.unescape(_TAG.sub("", piece)).strip("\n")
            fence = "~~~" if "```" in code else "```"
            blocks.append(f"{fence}\n{code}\n{fence}")
            continue
        marked = _BLOCK.sub("\n\n", re.sub("</?code>", "`", _ITEM.sub("<li>- ", piece)))
        told = map(str.strip, html.unescape(_TAG.sub("", marked)).split("\n\n"))
        blocks += [textwrap.fill(one, 88, break_long_words=False, break_on_hyphens=False) for one in told if one]
    return "\n\n".join(blocks)

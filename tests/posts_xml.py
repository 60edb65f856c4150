"""Posts.xml as the Stack Exchange data dump has it, for tests: byte order mark, a row a line, lines ending in CRLF."""

from xml.sax.saxutils import escape

HEAD, TAIL = '\ufeff<?xml version="1.0" encoding="utf-8"?>\r\n<posts>\r\n', "</posts>"


def row(**attributes):
    """One post; None leaves an attribute out."""
    escapes = {'"': "&quot;", "\n": "&#xA;", "\r": "&#xD;"}
    told = (f'{name}="{escape(str(v), escapes)}"' for name, v in attributes.items() if v is not None)
    return f"  <row {' '.join(told)} />\r\n"


def question(number, title, body, tags=("python", "list"), accepted=None, licence="CC BY-SA 4.0", *, pipes=False):
    """pipes: tags as dumps have them since 2024."""
    named = "|" + "|".join(tags) + "|" if pipes else "".join(f"<{tag}>" for tag in tags)
    return row(
        Id=number, PostTypeId=1, AcceptedAnswerId=accepted, CreationDate="2012-03-04T05:06:07.890", Score=7,
        ViewCount=1234, Body=body, OwnerUserId=8, LastActivityDate="2020-01-01T00:00:00.000", Title=title, Tags=named,
        AnswerCount=2, CommentCount=0, ContentLicense=licence,
    )  # fmt: skip


def answer(number, parent, body, score=0, licence="CC BY-SA 4.0"):
    return row(
        Id=number, PostTypeId=2, ParentId=parent, CreationDate="2013-03-04T05:06:07.890", Score=score, Body=body,
        OwnerUserId=9, LastActivityDate="2020-01-01T00:00:00.000", CommentCount=1, ContentLicense=licence,
    )  # fmt: skip


def forum(codes, apart=100):
    """A site's rows: a question for each of the codes, its two answers behind those of `apart` questions.

    Every third is about Python; of these every fourth has no answer, and every other accepts what scores less.
    """
    numbered = list(enumerate(codes))
    for start in range(0, len(numbered), apart):
        block = numbered[start : start + apart]
        for n, code in block:
            tags = ("python", "list") if n % 3 == 0 else ("c++", "python-3.x")
            body = f"<p>I have <code>f{n}</code> here:</p>\n\n<pre><code>{escape(code)}</code></pre>\n"
            accepted = 10 * n + 3 if n % 2 else None
            yield question(10 * n + 1, f"How does number {n} work & why?", body, tags, accepted, pipes=n % 5 == 0)
        for n, code in block:
            if n % 12 != 9:
                body = f"<p>Like this:</p>\n\n<pre><code>{escape(code)}\n# answer {n}\n</code></pre>\n"
                yield answer(10 * n + 2, 10 * n + 1, f"<p>Most liked.</p>{body}", 50)
                yield answer(10 * n + 3, 10 * n + 1, f"<p>Accepted.</p>{body}", 3, "CC BY-SA 3.0")


def write(path, posts, tail=TAIL):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + "".join(posts) + tail, encoding="utf-8", newline="")
    return path

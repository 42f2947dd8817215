"""Names and labels that would do harm, or could not be written, if a page took them as they are."""

SCRIPT = "<script>alert(1)</script>"
HOSTILE = {
    "a script": SCRIPT,
    "quotes": "\"><img src=x onerror=alert(1)>'`${1}{{7*7}}{% raw %}",
    "the end of a script": "</script><!--]]>&amp;\\u003c",
    "four bytes": "🎬🏳️‍🌈𝄞",
    "long": "w" * 300,
    "line breaks": "a\nb\r\x1b[31m\x00\x7f\ufffe",
    "not UTF-8": b"caf\xe9".decode(errors="surrogateescape"),
    "right to left": "\u202egpj.mp4 שלום",
}

import html.parser
import json

from hypothesis import given
from hypothesis import strategies as st

from cosearch.report.markup import data_script, table, tag

NASTY = st.text(alphabet=st.sampled_from("<>&\"'/!-\u2028 scriptx=]")) | st.text()


class Seen(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""

    def handle_starttag(self, name, attributes):
        self.tags.append((name, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def parsed(text: str) -> Seen:
    seen = Seen()
    seen.feed(text)
    seen.close()
    return seen


@given(NASTY, NASTY)
def test_text_and_attributes_come_back_as_they_were_and_open_no_element(text, value):
    seen = parsed(tag("p", text, title=value))
    assert seen.tags == [("p", {"title": value})]
    assert seen.text == text


@given(NASTY)
def test_no_text_ends_a_data_script(text):
    made = data_script("d", {"a": text})
    assert made.count("<") == 2
    inside = made[made.index(">") + 1 : made.rindex("<")]
    assert json.loads(inside) == {"a": text}


def test_tables_escape_heads_cells_and_captions():
    made = table(["<a>"], [["<b>"]], caption="<c>")
    assert {name for name, _ in parsed(made).tags}.isdisjoint({"a", "b", "c"})


def test_halves_of_characters_do_not_keep_a_page_from_being_written():
    made = tag("p", "caf\udce9", title="\ud800<")
    assert made == '<p title="?&lt;">caf?</p>'
    made.encode()

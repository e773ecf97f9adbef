"""Numbers in templates of tasks that are too large for a text. Nothing here is rendered but what the bound refuses."""

import time

import pytest
from jinja2.exceptions import SecurityError

from secateur.files.templates import MOST_REPEATS, BoundedSandbox, template_complaint, too_large
from secateur.files.time_limit import time_limit

ABOVE = MOST_REPEATS + 1


@pytest.mark.parametrize(
    "template",
    [
        f"{{{{ question * {ABOVE} }}}}",
        f"{{{{ {ABOVE} * question }}}}",
        "{{ question * 317 * 317 }}",
        "{{ question * (10 ** 6) }}",
        "{% set long = question * 100_001 %}{{ long }}",
        "{{ number ** 65 }}",
        f"{{{{ question | center({ABOVE}) }}}}",
        f"{{{{ question | indent(width={ABOVE}) }}}}",
        f"{{{{ question.ljust({ABOVE}) }}}}",
        f"{{% for n in range({ABOVE}) %}}x{{% endfor %}}",
        f"{{{{ '%{ABOVE}d' % number }}}}",
        f"{{{{ '%.{ABOVE}f' | format(number) }}}}",
        f"{{{{ '%*d' | format({ABOVE}, number) }}}}",
        f"{{{{ '{{:>{ABOVE}}}'.format(question) }}}}",
    ],
)
def test_a_number_too_large_for_a_text_is_refused(template: str) -> None:
    assert too_large(template) is not None
    assert too_large(template.replace(str(ABOVE), "100")) is None or str(ABOVE) not in template


@pytest.mark.parametrize(
    "template",
    [
        f"{{{{ question * {MOST_REPEATS} }}}}",
        "Question: {{ question.strip() }}\nAnswer:",
        "In 1000000 years: {{ '%05.2f' | format(number) }} {{ '-' * 20 }} {{ 2 ** 10 }}",
        "{{ year + 1000000 }} {{ [1000000, 2] | join(', ') }} {{ number | default(1000000) }}",
        "{{ question",
        "\\boxed{" + "9" * 20 + "}",
    ],
)
def test_a_template_of_ordinary_numbers_is_let_through(template: str) -> None:
    assert too_large(template) is None


def test_the_field_is_named() -> None:
    large = f"{{{{ x * {ABOVE} }}}}"
    said = "it multiplies by more than 100,000"
    assert template_complaint({"task": "t", "doc_to_target": large}) == f"doc_to_target: {said}"
    assert template_complaint({"doc_to_choice": ["a", large]}) == f"doc_to_choice: {said}"
    assert template_complaint({"fewshot_config": {"doc_to_text": large}}) == f"fewshot_config.doc_to_text: {said}"
    assert template_complaint({"filter_list": [{"name": large}], "doc_to_text": "{{ x }}"}) is None


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{{ question * times }}", {"question": "x" * 1024, "times": 1025}),
        ("{{ times * [question] }}", {"question": "", "times": 2**20 + 1}),
        ("{{ number ** times }}", {"number": 2, "times": 2**19 + 1}),
    ],
)
def test_numbers_of_a_data_set_are_bounded_as_well(template: str, values: dict[str, object]) -> None:
    with pytest.raises(SecurityError, match="would give more than"):
        BoundedSandbox().from_string(template).render(values)
    few = {**values, "times": 3}
    assert BoundedSandbox().from_string(template).render(few)


def test_arithmetic_of_templates_is_what_it_was() -> None:
    assert BoundedSandbox().from_string("{{ a * b }} {{ 'ab' * 2 }} {{ 2 ** -1 }} {{ 1.5 * 2 }}").render(
        a=3, b=10**6
    ) == ("3000000 abab 0.5 3.0")


def test_what_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.files.templates.RENDER_SECONDS", 0.05)
    with pytest.raises(SecurityError, match=r"to render it takes more than 0.05 seconds"):
        BoundedSandbox().from_string("{% for a in t %}{% for b in t %}{% endfor %}{% endfor %}").render(t="x" * 10**5)


def test_a_limit_ends_what_catches_errors_and_nothing_afterwards() -> None:
    def stubborn() -> None:
        while True:
            try:
                while True:
                    pass
            except Exception:  # noqa: BLE001 which is what is tested
                pass

    for _ in range(2):
        with pytest.raises(TimeoutError, match=r"it takes more than 0.05 seconds"), time_limit(0.05, "it"):
            stubborn()
    with pytest.raises(ValueError, match="own"), time_limit(10, "it"):
        raise ValueError("own")
    time.sleep(0.3)  # no limit is left that could end this

"""A chat template's clock, set to one day: transformers gives templates a clock of its own and takes no other."""

from __future__ import annotations

import json
from datetime import date, datetime

# The function by which a template asks for the time.
CLOCK = "strftime_now"
DIRECTIVES = "aAbBcCdDeFGhHIjklmMnpPrRSstTuUVwWxXyYzZf"
UNPADDED = "deHIjklmMSUVWy"
ASIDE = "\x01"
# In front of a template; the empty text at its end keeps a line feed that the template begins with.
_MACRO = (
    "{{%- macro {clock}(format) -%}}{{%- set told = namespace(text=format) -%}}"
    "{{%- for directive, value in {values}.items() -%}}"
    "{{%- set told.text = told.text.replace(directive, value) -%}}{{%- endfor -%}}"
    "{{{{- told.text -}}}}{{%- endmacro -%}}{{{{ '' }}}}"
)


def asks_for_the_day(template: object) -> bool:
    """Return whether a chat template, of whatever form, asks for the time."""
    return CLOCK in str(template)


def on_day(template: str, day: date) -> str:
    """Return a chat template whose clock stands at the beginning of a day.

    Args:
        template: Its source.
        day: What it is told.
    """
    if not asks_for_the_day(template):
        return template
    midnight = datetime.combine(day, datetime.min.time())
    forms = [f"%-{letter}" for letter in UNPADDED] + [f"%{letter}" for letter in DIRECTIVES]
    # A doubled sign is set aside first, so that nothing after it is taken for a form.
    values = {"%%": ASIDE} | {form: midnight.strftime(form) for form in forms} | {ASIDE: "%"}
    return _MACRO.format(clock=CLOCK, values=json.dumps(values)) + template

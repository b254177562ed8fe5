"""The page of a model's features, made from plain data; everything in it is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from arrcoc_verify.verdict import Verdict

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Features of {{ model }}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
 body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
 table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left}
 td.n{text-align:right;font-variant-numeric:tabular-nums}
 .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(21rem,1fr));gap:1rem}
 article{border:1px solid #8886;border-radius:.5rem;padding:.7rem 1rem}
 h3{margin:.1rem 0}img{margin-right:.2rem}dl{display:grid;grid-template-columns:auto 1fr;
 gap:0 .8rem;margin:.3rem 0}dd{margin:0}
</style>
<h1>Features of {{ model }}</h1>
{% if verdicts %}<h2>Claims on features</h2>
<table><tr><th>claim<th>verdict<th>tokens a patch<th>placebo<th>reason</tr>
{% for v in verdicts %}<tr><td>{{ v.sentence }}<td>{{ v.outcome }}
<td class=n>{{ v.effect | interval }}<td class=n>{{ v.null | interval }}<td>{{ v.reason }}</tr>
{% endfor %}</table>{% endif %}
{% for site, pages in sites.items() %}<h2>{{ site }}</h2><div class=grid>
{% for p in pages %}<article><h3>latent {{ p.latent }}: {{ p.way }}
{%- if p.name %}, {{ p.name.texts[0] }}?{% endif %}</h3>
<div>{% for t in p.top %}<img src="{{ t.picture }}" width=48 height=48
 alt="patch {{ t.patch }}, asked: {{ t.query }}" title="{{ t.query }}">{% endfor %}</div>
<dl><dt>fires on<dd>{{ "%.1f" | format(100 * p.density) }} % of patches
<dt>when ablated<dd>{{ p.tokens | interval }} tokens a patch
{% if p.name %}<dt>looks like<dd>{{ p.name.texts | join(", ") }}
 ({{ "%.1f" | format(p.name.near) }} spreads, random patches {{ "%.1f" | format(p.name.chance) }})
{% endif %}{% for factor, a in p.answers.items() %}<dt>{{ factor }}
<dd>{{ a | interval }}{% endfor %}</dl>
{% if p.top %}<small>asked: {{ p.top[0].query }}</small>{% endif %}</article>{% endfor %}</div>
{% endfor %}
</html>
"""


def render(
    model: str, verdicts: Sequence[Verdict], sites: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """Return the page.

    Args:
        model: its name.
        verdicts: of claims on features.
        sites: site -> pages as data, pictures as data URIs.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["interval"] = _interval
    return environment.from_string(_PAGE).render(model=model, verdicts=list(verdicts), sites=sites)


def _interval(one: Any) -> str:
    if one is None:
        return "not measured"
    get = one.get if isinstance(one, Mapping) else lambda name: getattr(one, name)
    return f"{get('value'):+.2f} [{get('low'):+.2f}, {get('high'):+.2f}]"

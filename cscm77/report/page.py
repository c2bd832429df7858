"""A notebook as a page: one HTML file that shows everything, formulas too, without a network."""

import re
from functools import partialmethod

from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# nbconvert's page without the scripts that it would fetch, with code folded as in JupyterLab, and
# with fonts for formulas that Windows, macOS and Linux have: in a browser's own no sign may grow
TEMPLATE = """{% extends "index.html.j2" %}
{% block html_head_js %}{% endblock %} {% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %} {% block jupyter_widgets %}{% endblock %}
{% block html_head_css %}<style>math { font-size: 110%; font-family: "Cambria Math",
"STIX Two Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math }
.jp-InputArea:has(summary) .jp-InputPrompt { padding: 0 5px }</style>{% endblock %}
{% block input %}{% if cell.metadata.get("jupyter", {}).source_hidden %}<details>
<summary style="font: 12px/1 sans-serif">code</summary>{{ super() }}</details>
{% else %}{{ super() }}{% endif %}{% endblock %}
{% block data_latex %}<div class="jp-OutputArea-output">
{{ output.data["text/latex"] | markdown2html }}</div>{% endblock %}"""
# $5 and $6 are amounts: a formula has no space at its ends, no digit behind it, no code within
FORMULA = r"(?s:(?<![$\\])\$(?!\s)(?P<math_inline_tex>(?:\\.|[^$\\`])+?)(?<!\s)\$(?![\d$]))"
FUNCTION = r"<mi>([a-z]{2,})</mi>(?=<m[^o])", r'<mo lspace=".17em" rspace=".17em">\1</mo>'  # log x
SIGN = r"(?<=&#x0003D;</mo>)<mo>(?=&#x02212;)", '<mo form="prefix">'  # = -x


def page_of(notebook):
    """The HTML of a notebook, and the sentence that says why formulas stay TeX in it, or None."""
    renderer = Renderer(escape=False)
    renderer.reasons = {}  # in their order, each once
    markdown = MarkdownWithMath(renderer)
    getattr(markdown.inline, "specification", {})["inline_math_tex"] = FORMULA

    @pass_context
    def to_html(context, source):
        renderer.attachments = context.get("cell", {}).get("attachments", {})
        return markdown.render(source)

    exporter = HTMLExporter(raw_template=TEMPLATE, filters={"markdown2html": to_html})
    html, _ = exporter.from_notebook_node(notebook)
    reasons = ", ".join(renderer.reasons)
    return html, f"Formulas stay TeX in the HTML: {reasons}" if reasons else None


class Renderer(IPythonRenderer):
    """Markdown to HTML with MathML; `reasons` are those for which a formula stayed TeX."""

    def _formula(self, mark, display, tex):
        try:
            from latex2mathml.converter import convert

            mathml = convert(tex, xmlns="", display=display).replace(' xmlns=""', "", 1)
            if "<mi>\\" in mathml:
                raise ValueError("a command that it does not know, and passes on")
            return re.sub(*SIGN, re.sub(*FUNCTION, mathml))
        except ImportError:
            self.reasons["latex2mathml is not installed"] = True
        except Exception:  # of many classes: whatever a formula made it stumble over
            self.reasons[f"latex2mathml cannot read ${tex}$"] = True
        return f"{mark}{self.escape_html(tex)}{mark}"

    inline_math = partialmethod(_formula, "$", "inline")
    block_math = partialmethod(_formula, "$$", "block")

    def latex_environment(self, name, body):
        """A formula between begin and end."""
        return self._formula("", "block", f"\\begin{{{name}}}{body}\\end{{{name}}}")

"""The page as HTML: style, script and what is known of the model inside, so that it loads nothing."""

from temper.app.inspection import RADII, steps
from temper.app.session import LARGEST_FILE, Session
from temper.app.verdict import radius
from temper.report.rendering import environment
from temper.report.scripts import in_script, script
from temper.report.views import AccuracyCurve, format_distance
from temper.threat import NORMS

SCRIPT = script(__package__, "app.js")

#: What the page may do: run its own script, ask its own server, show what it was sent.
POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{SCRIPT.digest}'; img-src data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(session: Session) -> str:
    """The page about a model."""
    threat = session.threat
    radii = steps(threat)
    data = {
        "norm": threat.norm,
        "unit": NORMS[threat.norm].unit,
        "eps": threat.eps,
        "radii": [{"eps": eps, "words": format_distance(eps, threat.norm)} for eps in radii],
        "curve": _curve(session.curve) if session.curve else None,
        "largest": LARGEST_FILE,
    }
    return (
        environment(__package__)
        .get_template("app.html")
        .render(
            session=session,
            radius=radius(threat),
            reach=format_distance(radii[-1], threat.norm),
            steps=RADII,
            data=in_script(data),
            script=SCRIPT,
        )
    )


def _curve(curve: AccuracyCurve) -> dict[str, list[float]]:
    points = sorted({**curve.between, **curve.points}.items())
    return {
        "x": [eps for eps, _ in points],
        "y": [each.value for _, each in points],
        "low": [each.low for _, each in points],
        "high": [each.high for _, each in points],
    }

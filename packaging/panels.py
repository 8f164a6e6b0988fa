# SPDX-License-Identifier: Apache-2.0
"""What dashboards.py is written with: queries, panels, and their JSON."""

WIDTH = 24
NODE = 'node=~"$node"'


def rate(metric, *labels, by):
    """Per second, of the chosen nodes. by: "" for one sum of all."""
    sums = f"sum by ({by})" if by else "sum"
    return f"{sums} (rate({metric}{{{', '.join((NODE, *labels))}}}[$__rate_interval]))"


def grown(metric, *labels, by=""):
    """How much within the time that is shown."""
    sums = f"sum by ({by})" if by else "sum"
    return f"{sums} (increase({metric}{{{', '.join((NODE, *labels))}}}[$__range]))"


def gauge(metric, *labels, by="node", sums="sum"):
    return f"{sums} by ({by}) ({metric}{{{', '.join((NODE, *labels))}}})"


def quantiles(metric, by, *labels):
    """Of a histogram: its median, and what 99 of 100 do not go beyond. [(query, legend)]"""
    inner = rate(f"{metric}_bucket", *labels, by=f"le, {by}")
    return [
        (f"histogram_quantile({q}, {inner})", f"{{{{{by}}}}}: {name}")
        for q, name in ((0.5, "half"), (0.99, "99 of 100"))
    ]


def or_zero(expression):
    """What is only there once it has happened."""
    return f"{expression} or vector(0)"


def row(title):
    return {"type": "row", "title": title, "size": (WIDTH, 1), "collapsed": False, "panels": []}


def panel(kind, title, about, size, unit, targets, **more):
    return {
        "type": kind,
        "title": title,
        "description": about,
        "size": size,
        "targets": [
            {"expr": e, "legendFormat": legend, "refId": chr(ord("A") + i), **more.get("target", {})}
            for i, (e, legend) in enumerate(targets)
        ],
        "fieldConfig": {"defaults": {"unit": unit, **more.get("defaults", {})}, "overrides": []},
        "options": more.get("options", {}),
    }


def stat(title, about, expression, unit="short", bad=None):
    """One number. bad: from where on it is red."""
    steps = [{"color": "green", "value": None}] + ([{"color": "red", "value": bad}] if bad else [])
    return panel(
        "stat",
        title,
        about,
        (4, 4),
        unit,
        [(expression, "")],
        defaults={"thresholds": {"mode": "absolute", "steps": steps}},
        options={"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
    )


def graph(title, about, *targets, unit="short", width=12, stacked=False):
    custom = {"fillOpacity": 10, "showPoints": "never"}
    if stacked:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal"}}
    return panel(
        "timeseries",
        title,
        about,
        (width, 8),
        unit,
        targets,
        defaults={"custom": custom, "min": 0},
        options={"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    )


def table(title, about, expression, width=12):
    return panel(
        "table",
        title,
        about,
        (width, 8),
        "short",
        [(expression, "")],
        target={"instant": True, "format": "table"},
        defaults={"decimals": 0},
        options={"sortBy": [{"displayName": "Value", "desc": True}]},
    )


# ---- their JSON ----


def placed(panels):
    """From left to right, and down."""
    x = y = height = 0
    for number, p in enumerate(panels, 1):
        w, h = p.pop("size")
        if x + w > WIDTH:
            x, y, height = 0, y + height, 0
        source = {} if p["type"] == "row" else {"datasource": {"type": "prometheus", "uid": "${datasource}"}}
        yield {"id": number, "gridPos": {"x": x, "y": y, "w": w, "h": h}, **source, **p}
        x, height = x + w, max(height, h)


def of_label(name, metric, label=None):
    query = f"label_values({metric}, {label or name})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def dashboard(name, title, panels, *variables):
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"bruma-{name}",
        "title": title,
        "tags": ["bruma"],
        "schemaVersion": 38,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, of_label("node", "bruma_build"), *variables]},
        "links": [
            {
                "title": "Bruma",
                "type": "dashboards",
                "tags": ["bruma"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "panels": list(placed(panels)),
    }

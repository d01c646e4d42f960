"""Draws a run: one row for each work, nbdd's ratio to the best peer as a bar, the other peers and the
aim as marks, on a logarithmic scale."""

import math
from html import escape

from machine import sentence
from report import NBDD, best_peer, peers, speed

LEFT, WIDTH, ROW, TOP = 340, 560, 20, 70
LOW, HIGH = 0.125, 16.0
COLOURS = ("#c2571a", "#7a3e9d", "#2e7d6b", "#8a6d1f", "#a83254", "#4a5a6a")


def across(ratio):
    part = math.log(min(max(ratio, LOW), HIGH) / LOW) / math.log(HIGH / LOW)
    return LEFT + part * WIDTH


def scale(height):
    value = LOW
    while value <= HIGH:
        x = across(value)
        yield (f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height}" '
               f'stroke="{"#333" if value == 1 else "#ddd"}"/>')
        yield f'<text x="{x:.1f}" y="{TOP - 10}" text-anchor="middle">{value:g}</text>'
        value *= 2


def row(work, y, colours):
    best = best_peer(work)
    middle = y + ROW / 2
    yield f'<text x="{LEFT - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(work["title"])}</text>'
    ratio = speed(work, NBDD, best)
    if ratio is None:
        yield f'<text x="{across(1) + 6:.1f}" y="{middle + 4:.1f}" fill="#777">no peer does this</text>'
        return
    start, end = sorted((across(1), across(ratio)))
    colour = "#2b6cb0" if ratio >= 1 else "#90a4c0"
    yield (f'<rect x="{start:.1f}" y="{y + 4}" width="{end - start:.1f}" height="{ROW - 8}" '
           f'fill="{colour}"/>')
    for name in peers(work):
        other = speed(work, name, best)
        if other is not None:
            yield (f'<circle cx="{across(other):.1f}" cy="{middle:.1f}" r="3.5" '
                   f'fill="{colours[name]}"/>')
    if work["aim"]:
        x = across(work["aim"])
        yield (f'<line x1="{x:.1f}" y1="{y + 1}" x2="{x:.1f}" y2="{y + ROW - 1}" stroke="#c00" '
               f'stroke-width="2"/>')
    yield (f'<text x="{max(across(ratio), across(1)) + 6:.1f}" y="{middle + 4:.1f}" '
           f'font-weight="bold" stroke="#fff" stroke-width="3" paint-order="stroke">'
           f'{ratio:.2f}</text>')


def legend(colours):
    x = LEFT
    yield f'<rect x="{x}" y="28" width="12" height="10" fill="#2b6cb0"/>'
    yield f'<text x="{x + 16}" y="37">nbdd</text>'
    x += 60
    for name, colour in colours.items():
        yield f'<circle cx="{x + 5}" cy="33" r="3.5" fill="{colour}"/>'
        yield f'<text x="{x + 13}" y="37">{escape(name)}</text>'
        x += 24 + 7 * len(name)
    yield f'<line x1="{x + 4}" y1="27" x2="{x + 4}" y2="39" stroke="#c00" stroke-width="2"/>'
    yield f'<text x="{x + 10}" y="37">aim</text>'


def draw(data):
    names = []
    for work in data["works"]:
        names += [name for name in peers(work) if name not in names]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    bottom = TOP + ROW * len(data["works"])
    width, height = LEFT + WIDTH + 80, bottom + 30
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
             f'<rect width="{width}" height="{height}" fill="#fff"/>',
             '<text x="10" y="18" font-size="14">How many times as fast as the best peer '
             '(1: as fast; to the right: faster)</text>', *legend(colours), *scale(bottom)]
    for number, work in enumerate(data["works"]):
        parts += row(work, TOP + number * ROW, colours)
    parts.append(f'<text x="10" y="{height - 10}" font-size="9" fill="#555">'
                 f'{escape(sentence(data["machine"]))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"

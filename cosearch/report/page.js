"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const block = (name, kind, text) => {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const number = (value) => {
    if (value === null || value === undefined) return "-";
    if (Number.isInteger(value) && Math.abs(value) >= 1000) return value.toLocaleString("en-US");
    return String(Number(value.toPrecision(6)));
  };

  // -- what a pointer or a key rests on --
  const tip = block("div", "tip");
  tip.hidden = true;
  tip.setAttribute("role", "status");
  document.body.append(tip);
  const show = (where, title, pairs) => {
    tip.replaceChildren(block("strong", "", title));
    const list = block("dl");
    for (const [term, said] of pairs) {
      const row = block("div");
      row.append(block("dt", "", term), block("dd", "", said));
      list.append(row);
    }
    tip.append(list);
    tip.hidden = false;
    const box = where.getBoundingClientRect();
    const left = Math.max(6, Math.min(box.left + box.width / 2 + 12, innerWidth - tip.offsetWidth - 6));
    const below = box.bottom + 10;
    const top = below + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 10 : below;
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(6, top)}px`;
  };
  const hide = () => { tip.hidden = true; };
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true });
  const explain = (mark, title, pairs) => {
    const open = () => show(mark, title, pairs);
    for (const name of ["pointerenter", "click", "focus"]) mark.addEventListener(name, open);
    for (const name of ["pointerleave", "blur"]) mark.addEventListener(name, hide);
    return mark;
  };

  // -- scales --
  const linearTicks = (low, high, about) => {
    const rough = (high - low) / Math.max(1, about);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.75) || 10 * power;
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + step * 1e-9; i++) ticks.push(i * step);
    return ticks;
  };
  const logTicks = (low, high) => {
    const ticks = [];
    const wide = Math.log10(high / low) > 3;
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
      for (const m of wide ? [1] : [1, 2, 5]) {
        const tick = m * 10 ** e;
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    return ticks;
  };
  const scale = (values, from, to, about, { zero = false, linear = false } = {}) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (zero) { low = Math.min(0, low); high = Math.max(0, high); }
    const log = !zero && !linear && low > 0 && high / low > 30;
    if (low === high) { const pad = Math.abs(low) * 0.05 || 1; low -= pad; high += pad; }
    const pad = log ? Math.log(high / low) * 0.05 : (high - low) * 0.05;
    if (log) { low *= Math.exp(-pad); high *= Math.exp(pad); } else {
      if (!(zero && low === 0)) low -= pad;
      if (!(zero && high === 0)) high += pad;
    }
    const f = log ? Math.log : (v) => v;
    const at = (v) => from + (f(v) - f(low)) / (f(high) - f(low)) * (to - from);
    return { at, ticks: log ? logTicks(low, high) : linearTicks(low, high, about), log };
  };
  const tickText = (value, ticks) => {
    if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4)) return value.toExponential(0).replace("e+", "e");
    if (ticks.length < 2) return number(value);
    const step = Math.abs(ticks[1] - ticks[0]);
    const digits = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
    const tidy = Number(value.toFixed(digits + 1));
    return Math.abs(tidy) >= 1000 ? tidy.toLocaleString("en-US") : String(tidy);
  };

  const symbols = {
    circle: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
    square: (r) => `M${-r * 0.88} ${-r * 0.88}h${r * 1.76}v${r * 1.76}h${-r * 1.76}z`,
    triangle: (r) => `M0 ${-r * 1.2}L${r * 1.1} ${r * 0.8}H${-r * 1.1}z`,
    diamond: (r) => `M0 ${-r * 1.3}L${r * 1.3} 0L0 ${r * 1.3}L${-r * 1.3} 0z`,
    cross: (r) => `M${-r} ${-r * 0.35}h${r * 0.65}v${-r * 0.65}h${r * 0.7}v${r * 0.65}h${r * 0.65}v${r * 0.7}h${-r * 0.65}v${r * 0.65}h${-r * 0.7}v${-r * 0.65}h${-r * 0.65}z`,
    star: (r) => "M" + Array.from({ length: 10 }, (_, i) => {
      const a = Math.PI * i / 5 - Math.PI / 2, q = i % 2 ? r * 0.62 : r * 1.45;
      return `${(q * Math.cos(a)).toFixed(2)} ${(q * Math.sin(a)).toFixed(2)}`;
    }).join("L") + "z",
  };
  const symbol = (series, x, y, r) => make("path", {
    d: symbols[series.symbol || "circle"](r), transform: `translate(${x.toFixed(2)} ${y.toFixed(2)})`,
    class: `${series.color} ${series.style || "fill"}`,
  });

  const frame = (plot, width, height, alt, role) => {
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role, "aria-label": alt });
    plot.replaceChildren(svg);
    return svg;
  };
  const under = (svg, box, label) => {
    const room = box.right - box.left;
    const lines = label.length * 6.7 > box.right ? label.split("; ") : [label];
    lines.forEach((line, i) => {
      const fits = line.length * 6.7 <= room;
      const place = { x: fits ? (box.left + box.right) / 2 : box.right, y: box.bottom + 36 + 14 * i, "text-anchor": fits ? "middle" : "end" };
      svg.append(make("text", place, line));
    });
  };
  const axes = (svg, x, y, box, xLabel, yLabel) => {
    for (const tick of x.ticks) {
      svg.append(make("path", { class: "rule", d: `M${x.at(tick)} ${box.top}V${box.bottom}` }));
      svg.append(make("text", { x: x.at(tick), y: box.bottom + 17, "text-anchor": "middle", class: "soft" }, tickText(tick, x.log ? [] : x.ticks)));
    }
    for (const tick of y.ticks) {
      svg.append(make("path", { class: "rule", d: `M${box.left} ${y.at(tick)}H${box.right}` }));
      svg.append(make("text", { x: box.left - 7, y: y.at(tick) + 4, "text-anchor": "end", class: "soft" }, tickText(tick, y.log ? [] : y.ticks)));
    }
    svg.append(make("path", { class: "axis", d: `M${box.left} ${box.top}V${box.bottom}H${box.right}` }));
    under(svg, box, xLabel + (x.log ? ", log scale" : ""));
    svg.append(make("text", { x: box.left, y: box.top - 9 }, yLabel + (y.log ? ", log scale" : "")));
  };
  const placeOf = (width, height) => ({ left: 62, right: width - 16, top: 26, bottom: height - 52 });

  const legend = (figure, series, redraw) => {
    const list = block("ul", "legend");
    for (const one of series) {
      const item = block("li");
      const holder = block(redraw ? "button" : "span");
      const icon = make("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" });
      if (one.line) icon.append(make("path", { d: "M0 8H16", class: `${one.color} line`, "stroke-dasharray": one.dash || "" }));
      if (one.symbol) icon.append(symbol(one, 8, 8, 4.6));
      if (one.swatch) icon.append(make("rect", { x: 1, y: 1, width: 14, height: 14, class: `${one.color} fill` }));
      holder.append(icon, one.name);
      if (redraw) {
        holder.type = "button";
        holder.setAttribute("aria-pressed", String(!one.off));
        holder.addEventListener("click", () => {
          one.off = !one.off;
          holder.setAttribute("aria-pressed", String(!one.off));
          redraw();
        });
      }
      item.append(holder);
      list.append(item);
    }
    figure.querySelector(".plot").before(list);
  };

  // -- points in the plane of two axes that a reader chooses --
  const scatter = (figure, plot, spec) => {
    const chosen = { x: spec.x, y: spec.y };
    const axisOf = (key) => spec.axes.find((a) => a.key === key);
    let draw = () => {};
    if (spec.axes.length > 2) {
      const controls = block("div", "controls");
      for (const side of ["x", "y"]) {
        const label = block("label", "", `${side === "x" ? "horizontal" : "vertical"} axis `);
        const select = block("select");
        select.dataset.axis = side;
        for (const axis of spec.axes) {
          const option = block("option", "", axis.label);
          option.value = axis.key;
          option.selected = axis.key === chosen[side];
          select.append(option);
        }
        select.addEventListener("change", () => { chosen[side] = select.value; draw(plot.clientWidth); });
        label.append(select);
        controls.append(label);
      }
      plot.before(controls);
    }
    legend(figure, spec.series, () => draw(plot.clientWidth));
    const known = (p) => Number.isFinite(p.v[chosen.x]) && Number.isFinite(p.v[chosen.y]);
    const staircase = (points, X, Y) => {
      const sx = X.more ? -1 : 1, sy = Y.more ? -1 : 1;
      const sorted = points.map((p) => [sx * p.v[X.key], sy * p.v[Y.key]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
      const steps = [];
      for (const p of sorted) if (!steps.length || p[1] < steps[steps.length - 1][1]) steps.push(p);
      return steps.map((p) => [sx * p[0], sy * p[1]]);
    };
    draw = (width) => {
      const height = width < 520 ? 340 : 430;
      const box = placeOf(width, height);
      const X = axisOf(chosen.x), Y = axisOf(chosen.y);
      const shown = spec.series.filter((s) => !s.off).map((s) => [s, s.points.filter(known)]);
      const every = shown.flatMap(([, points]) => points);
      const svg = frame(plot, width, height, `${spec.alt} Horizontal: ${X.label}; vertical: ${Y.label}.`, "group");
      if (!every.length) {
        svg.append(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing here is known on both axes"));
        return;
      }
      const limits = (spec.limits || []).filter((l) => l.key === X.key || l.key === Y.key);
      const along = (key) => every.map((p) => p.v[key]).concat(limits.filter((l) => l.key === key).map((l) => l.value));
      const x = scale(along(X.key), box.left, box.right, width < 520 ? 4 : 7, { linear: X.more });
      const y = scale(along(Y.key), box.bottom, box.top, 6, { linear: Y.more });
      axes(svg, x, y, box, X.label, Y.label);
      for (const limit of limits) {
        const vertical = limit.key === X.key;
        const at = (vertical ? x : y).at(limit.value);
        svg.append(make("path", { class: "limit", d: vertical ? `M${at} ${box.top}V${box.bottom}` : `M${box.left} ${at}H${box.right}` }));
        svg.append(make("text", vertical ? { x: at - 5, y: box.top + 12, "text-anchor": "end", class: "halo" } : { x: box.right - 4, y: at - 5, "text-anchor": "end", class: "halo" }, limit.label));
      }
      const marks = [], names = [];
      const label = (px, py, text) => {
        const long = text.length * 6.7;
        const spots = [[11, -8, 0], [-11, -8, 1], [11, 16, 0], [-11, 16, 1], [11, -24, 0], [-11, -24, 1], [11, 32, 0], [-11, 32, 1]];
        const boxOf = ([dx, dy, left]) => ({ x: px + dx - (left ? long : 0), y: py + dy - 11, w: long, h: 14 });
        const free = (b) => b.x > box.left && b.x + b.w < box.right && names.every((n) => n.x > b.x + b.w || n.x + n.w < b.x || n.y > b.y + b.h || n.y + n.h < b.y);
        const spot = spots.find((s) => free(boxOf(s))) || spots[0];
        names.push(boxOf(spot));
        svg.append(make("text", { x: px + spot[0], y: py + spot[1], "text-anchor": spot[2] ? "end" : "start", class: "halo" }, text));
      };
      for (const [, points] of shown) for (const p of points) if (p.label) names.push({ x: x.at(p.v[X.key]) - 7, y: y.at(p.v[Y.key]) - 7, w: 14, h: 14 });
      for (const [series, points] of shown) {
        if (series.line) {
          const steps = staircase(points, X, Y);
          let d = "";
          steps.forEach((p, i) => {
            const px = x.at(p[0]).toFixed(1), py = y.at(p[1]).toFixed(1);
            d += i ? `H${px}V${py}` : `M${px} ${py}`;
          });
          svg.append(make("path", { d, class: `${series.color} line`, "stroke-dasharray": series.dash || "" }));
        }
        for (const point of points) {
          const px = x.at(point.v[X.key]), py = y.at(point.v[Y.key]);
          svg.append(symbol(series, px, py, series.size));
          if (point.label) label(px, py, point.label);
          if (series.ring) continue;
          const hit = make("circle", { cx: px, cy: py, r: Math.max(series.size + 2, series.focus ? 9 : 5), class: "hit" });
          const pairs = spec.axes.filter((a) => point.v[a.key] !== undefined).map((a) => [a.label, number(point.v[a.key])]);
          if (series.focus) {
            hit.setAttribute("tabindex", "0");
            hit.setAttribute("role", "img");
            hit.setAttribute("aria-label", `${point.t}: ${pairs.map((p) => p.join(" ")).join(", ")}`);
            if (point.id !== undefined) hit.dataset.point = point.id;
          }
          explain(hit, point.t, pairs.concat(point.n || []));
          marks.push(hit);
        }
      }
      svg.append(...marks);
    };
    return draw;
  };

  // -- values that hold until the next one --
  const steps = (figure, plot, spec) => {
    let draw = () => {};
    legend(figure, spec.series, () => draw(plot.clientWidth));
    draw = (width) => {
      const height = 300;
      const box = placeOf(width, height);
      const shown = spec.series.filter((s) => !s.off && s.points.length);
      const svg = frame(plot, width, height, spec.alt, "img");
      if (!shown.length) return;
      const xs = shown.flatMap((s) => s.points.map((p) => p[0])), ys = shown.flatMap((s) => s.points.concat(s.low || [], s.high || []).map((p) => p[1]));
      const x = scale(xs.concat(spec.from === undefined ? [] : [spec.from]), box.left, box.right, width < 520 ? 4 : 7);
      const y = scale(ys, box.bottom, box.top, 5, { linear: true });
      axes(svg, x, y, box, spec.xLabel, spec.yLabel);
      const path = (points) => points.map((p, i) => {
        const px = x.at(p[0]).toFixed(1), py = y.at(p[1]).toFixed(1);
        return i ? `H${px}V${py}` : `M${px} ${py}`;
      }).join("");
      const marks = [];
      for (const series of shown) {
        if (series.low) {
          const back = series.low.map((p) => [x.at(p[0]).toFixed(1), y.at(p[1]).toFixed(1)]).reverse();
          const down = back.map((p, i) => (i ? `V${p[1]}H${p[0]}` : `L${p[0]} ${p[1]}H${p[0]}`)).join("");
          svg.append(make("path", { d: `${path(series.high)}${down}Z`, class: `${series.color} band` }));
        }
        svg.append(make("path", { d: path(series.points), class: `${series.color} line`, "stroke-dasharray": series.dash || "" }));
        const last = series.points[series.points.length - 1];
        svg.append(symbol(series, x.at(last[0]), y.at(last[1]), 4.5));
        for (const point of series.points) {
          const hit = make("circle", { cx: x.at(point[0]), cy: y.at(point[1]), r: 6, class: "hit" });
          marks.push(explain(hit, series.name, [[spec.xLabel, number(point[0])], [spec.yLabel, number(point[1])]]));
        }
      }
      svg.append(...marks);
    };
    return draw;
  };

  // -- one row per thing --
  const rowsFrame = (plot, width, spec, rowHeight) => {
    const longest = Math.max(...spec.rows.map((r) => r.length));
    const left = Math.min(longest * 6.6 + 14, width * 0.42);
    const height = 26 + spec.rows.length * rowHeight + 56;
    const box = { left, right: width - 14, top: 26, bottom: 26 + spec.rows.length * rowHeight };
    const svg = frame(plot, width, height, spec.alt, "img");
    const most = Math.floor((left - 12) / 6.4);
    const labels = spec.rows.map((row, i) => {
      const text = make("text", { x: left - 8, y: box.top + (i + 0.5) * rowHeight + 4, "text-anchor": "end" }, row.length > most ? `${row.slice(0, most - 1)}…` : row);
      text.append(make("title", {}, row));
      return text;
    });
    return { svg, box, labels };
  };
  const ruler = (svg, x, box, label) => {
    for (const tick of x.ticks) {
      svg.append(make("path", { class: "rule", d: `M${x.at(tick)} ${box.top}V${box.bottom}` }));
      svg.append(make("text", { x: x.at(tick), y: box.bottom + 17, "text-anchor": "middle", class: "soft" }, tickText(tick, x.ticks)));
    }
    under(svg, box, label);
  };
  const bars = (figure, plot, spec) => {
    legend(figure, spec.parts.concat(spec.marks ? [spec.marks] : []), null);
    return (width) => {
      const high = 20;
      const { svg, box, labels } = rowsFrame(plot, width, spec, high);
      const totals = spec.rows.map((_, i) => spec.parts.reduce((sum, part) => sum + part.values[i], 0));
      const x = scale(totals.concat(spec.marks ? spec.marks.values : [], [0]), box.left, box.right, width < 520 ? 3 : 6, { zero: true });
      ruler(svg, x, box, spec.label);
      svg.append(...labels);
      spec.rows.forEach((row, i) => {
        let sum = 0;
        const y = box.top + i * high + 3;
        for (const part of spec.parts) {
          const value = part.values[i];
          if (value > 0) {
            const bar = make("rect", { x: x.at(sum), y, width: Math.max(0.5, x.at(sum + value) - x.at(sum)), height: high - 6, class: `${part.color} fill` });
            svg.append(explain(bar, row, [[part.name, number(value)], ["in all", number(totals[i])], ...(spec.notes ? spec.notes[i] : [])]));
          }
          sum += value;
        }
        if (spec.marks) svg.append(make("path", { d: `M${x.at(spec.marks.values[i])} ${y - 2}v${high - 2}`, class: `${spec.marks.color} line` }));
      });
    };
  };
  const strip = (figure, plot, spec) => {
    legend(figure, spec.kinds, null);
    return (width) => {
      const high = 24;
      const { svg, box, labels } = rowsFrame(plot, width, spec, high);
      const most = spec.most === undefined ? Infinity : spec.most;
      const x = scale(spec.points.map((p) => Math.min(p.x, most)).concat([0]), box.left + 8, box.right, width < 520 ? 3 : 6);
      ruler(svg, x, box, spec.label);
      svg.append(...labels);
      spec.rows.forEach((_, i) => svg.append(make("path", { class: "rule", d: `M${box.left} ${box.top + (i + 0.5) * high}H${box.right}` })));
      svg.append(make("path", { class: "axis", d: `M${x.at(0)} ${box.top - 4}V${box.bottom}` }));
      svg.append(make("text", { x: x.at(0), y: box.top - 9, "text-anchor": "middle", class: "soft" }, "as chosen"));
      for (const point of spec.points) {
        const beyond = point.x > most;
        const px = x.at(Math.min(point.x, most)), py = box.top + (point.row + 0.5) * high;
        if (beyond) svg.append(make("path", { d: `M${px - 4} ${py - 4}l5 4l-5 4`, class: `${spec.kinds[point.kind].color} line` }));
        else svg.append(symbol(spec.kinds[point.kind], px, py, 4.6));
        svg.append(explain(make("circle", { cx: px, cy: py, r: 8, class: "hit" }), point.t, point.n));
      }
    };
  };

  const kinds = { scatter, steps, bars, strip };
  for (const figure of document.querySelectorAll("figure.chart")) {
    const plot = figure.querySelector(".plot");
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const draw = kinds[spec.kind](figure, plot, spec);
    let drawn = 0;
    const fit = () => {
      const width = Math.max(260, Math.floor(plot.clientWidth));
      if (plot.clientWidth && width !== drawn) { drawn = width; draw(width); }
    };
    fit();
    new ResizeObserver(fit).observe(plot);
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details.printed").forEach((one) => { one.open = true; }));
})();

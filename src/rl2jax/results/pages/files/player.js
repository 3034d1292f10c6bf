// Steps through recorded trials (rl2jax.results.pages.recordings): what the agent knew, thought likely, did and got.
(() => {
  const recordings = JSON.parse(document.getElementById("recordings").textContent);
  const player = document.querySelector(".player");
  const part = (name) => player.querySelector(`#${name}`);
  const [chosen, slider, play, speed, say] = ["trial", "step", "play", "speed", "say"].map(part);
  const COMPASS = ["east", "east-north-east", "north-east", "north-north-east", "north", "north-north-west", "north-west",
    "west-north-west", "west", "west-south-west", "south-west", "south-south-west", "south", "south-south-east",
    "south-east", "east-south-east"];
  const ACTIONS = ["forward", "turn left", "turn right"];
  const ENDS = 1e-9;
  let trial, step, timer = null, show;

  function element(name, attributes = {}, ...children) {
    const isDrawn = ["svg", "path", "line", "rect", "circle", "polyline", "polygon", "text", "g"].includes(name);
    const made = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  const total = (values, end) => values.slice(0, end).reduce((sum, value) => sum + value, 0);
  const signed = (value) => (value < 0 ? "−" : "") + String(+Math.abs(value).toFixed(3));
  const percent = (share) => `${Math.round(100 * share)}%`;

  function bar(kind) {
    const filled = element("b"), number = element("span");
    const whole = element("span", { class: `bar ${kind}` }, element("i", {}, filled), number);
    whole.set = (share) => {
      filled.style.width = `${100 * share}%`;
      number.textContent = share === null ? "–" : share.toFixed(share < 0.9995 && share > 0.0005 ? 3 : 0);
    };
    return whole;
  }

  // Which action when; filled where it paid. Only what has happened by now is seen.
  function history(host, names, rewards, edges) {
    const steps = trial.actions.length, left = Math.max(...names.map((name) => name.length)) * 6.4 + 8, high = 16;
    const width = Math.max(280, Math.min(host.clientWidth || 900, 940)), unit = (width - left - 4) / steps;
    const box = element("svg", { viewBox: `0 0 ${width} ${names.length * high + 4}`, role: "img",
      "aria-label": "What was chosen at each step so far, filled where it paid" });
    names.forEach((name, row) => {
      const y = row * high + high / 2 + 2;
      box.append(element("text", { x: 0, y: y + 4 }, name), element("line", { class: "grid", x1: left, x2: width, y1: y, y2: y }));
    });
    for (const edge of edges) {
      const x = left + edge * unit;
      box.append(element("line", { class: "edge", x1: x, x2: x, y1: 0, y2: names.length * high + 4 }));
    }
    const now = element("rect", { class: "now", y: 0, width: Math.max(unit, 2), height: names.length * high + 4 });
    box.append(now);
    const size = Math.min(unit * 0.8, high * 0.62);
    const marks = trial.actions.map((action, index) => {
      const mark = element("rect", { class: rewards[index] > 0 ? "paid" : "unpaid", width: size, height: high * 0.62,
        x: left + (index + 0.5) * unit - size / 2, y: action * high + 2 + high * 0.19 });
      box.append(mark);
      return mark;
    });
    host.replaceChildren(box);
    return () => {
      marks.forEach((mark, index) => { mark.style.visibility = index < step ? "visible" : "hidden"; });
      now.setAttribute("x", left + Math.min(step, steps - 1) * unit);
      now.style.visibility = step < steps ? "visible" : "hidden";
    };
  }

  // Density of Beta(1 + successes, 1 + failures), its peak at full height.
  function density(successes, failures) {
    const log = (x) => (successes ? successes * Math.log(x) : 0) + (failures ? failures * Math.log(1 - x) : 0);
    const peak = successes + failures ? log(Math.min(1 - ENDS, Math.max(ENDS, successes / (successes + failures)))) : 0;
    const points = [];
    for (let i = 0; i <= 100; i += 1) {
      const x = Math.min(1 - ENDS, Math.max(ENDS, i / 100));
      points.push(`${i},${(40 - 36 * Math.exp(log(x) - peak)).toFixed(2)}`);
    }
    return `M0,40 L${points.join(" L")} L100,40 Z`;
  }

  function beginBandit() {
    const lines = trial.arms.map((probability, index) => {
      const policy = bar(""), thompson = bar("other"), counts = element("span", { class: "counts" });
      const curve = element("path"), mean = element("line", { class: "mean", y1: 2, y2: 40 });
      const truth = element("line", { class: "true", x1: 100 * probability, x2: 100 * probability, y1: 2, y2: 40 });
      const belief = element("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img" }, curve, truth, mean);
      const pick = element("span", { class: "pick" });
      const line = element("li", { class: "arm" }, element("b", {}, `Arm ${index + 1}`), policy,
        element("span", { class: "belief" }, belief), counts, element("span", { class: "others" }, thompson, pick));
      return { line, policy, thompson, counts, curve, mean, belief, pick, probability };
    });
    part("arms").replaceChildren(...lines.map(({ line }) => line));
    const seen = history(part("pulls"), trial.arms.map((_, index) => `arm ${index + 1}`), trial.rewards, []);
    return () => {
      const over = step >= trial.actions.length;
      lines.forEach((arm, index) => {
        const paid = trial.rewards.filter((_, at) => at < step && trial.actions[at] === index);
        const successes = total(paid), failures = paid.length - successes, mean = (1 + successes) / (2 + paid.length);
        arm.line.classList.toggle("chosen", !over && trial.actions[step] === index);
        arm.policy.set(over ? null : trial.probabilities[step][index]);
        arm.thompson.set(over ? null : trial.thompson[step][index]);
        arm.pick.textContent = !over && trial.gittins[step] === index ? "Gittins’ choice" : "";
        arm.counts.replaceChildren(`mean ${mean.toFixed(3)}`, element("br"),
          element("span", { class: "small" }, `${successes} paid, ${failures} not`));
        arm.curve.setAttribute("d", density(successes, failures));
        for (const end of ["x1", "x2"]) arm.mean.setAttribute(end, 100 * mean);
        arm.belief.setAttribute("aria-label", `Belief about arm ${index + 1}: Beta(${1 + successes}, ${1 + failures}), ` +
          `mean ${mean.toFixed(3)}; truth ${arm.probability.toFixed(3)}`);
        Object.assign(arm.line.dataset, { successes, failures });
      });
      seen();
      const best = trial.arms.indexOf(Math.max(...trial.arms));
      if (over) {
        return `The trial is over: ${total(trial.rewards)} of ${step} pulls paid. Always arm ${best + 1}, the best, ` +
          `would have paid ${(step * trial.arms[best]).toFixed(1)} on average.`;
      }
      const arm = trial.actions[step], share = Math.max(...trial.thompson[step]);
      return `Pull ${step + 1} of ${trial.actions.length}: arm ${arm + 1}, chosen with probability ` +
        `${trial.probabilities[step][arm].toFixed(3)}, ${trial.rewards[step] ? "pays 1" : "pays nothing"}. ` +
        `Paid before: ${total(trial.rewards, step)}. Gittins would pull arm ${trial.gittins[step] + 1}; Thompson sampling ` +
        `most often arm ${trial.thompson[step].indexOf(share) + 1}, in ${percent(share)} of draws.`;
    };
  }

  function beginMaze() {
    const size = trial.free.length, north = (y) => size - y;
    const map = element("svg", { class: "map", viewBox: `-0.05 -0.05 ${size + 0.1} ${size + 0.1}`, role: "img" });
    const cell = (kind, [row, column]) => element("rect", { class: kind, x: column, y: north(row + 1), width: 1, height: 1 });
    trial.free.forEach((line, row) => line.forEach((free, column) => {
      if (!free) map.append(cell("solid", [row, column]));
    }));
    map.append(cell("target", trial.target), cell("start", trial.start));
    for (const [[x1, y1], [x2, y2]] of trial.walls) {
      map.append(element("line", { class: "wall", x1, x2, y1: north(y1), y2: north(y2) }));
    }
    const earlier = element("g"), way = element("polyline", { class: "way" }), view = element("polygon", { class: "view" });
    const here = element("circle", { class: "here", r: 0.13 });
    map.append(earlier, way, view, here);
    part("map").replaceChildren(map);
    const frame = element("div", { class: "frame", role: "img" });
    const across = trial.frames_across, down = Math.ceil(trial.actions.length / across);
    frame.style.backgroundImage = `url("${trial.frames}")`;
    frame.style.backgroundSize = `${100 * across}% ${100 * down}%`;
    part("frame").replaceChildren(frame);
    const lines = ACTIONS.map((name) => {
      const policy = bar("");
      return { policy, line: element("li", { class: "arm" }, element("span", {}, name), policy) };
    });
    part("choices").replaceChildren(...lines.map(({ line }) => line));
    const edges = trial.episode.flatMap((number, at) => (at && number !== trial.episode[at - 1] ? [at] : []));
    const seen = history(part("moves"), ACTIONS, trial.rewards, edges);
    const points = (from, to) => trial.x.slice(from, to).map((x, at) => `${x},${north(trial.y[from + at])}`).join(" ");
    return () => {
      const steps = trial.actions.length, over = step >= steps, at = Math.min(step, steps - 1);
      const starts = [0, ...edges].filter((start) => start <= at), start = starts[starts.length - 1];
      earlier.replaceChildren(...starts.slice(1).map((end, index) =>
        element("polyline", { class: "earlier", points: points(starts[index], end) })));
      way.setAttribute("points", points(start, at + 1));
      const x = trial.x[at], y = north(trial.y[at]), angle = (trial.heading[at] * Math.PI) / 8;
      const corner = (turn) => `${x + 0.75 * Math.cos(angle + turn)},${y - 0.75 * Math.sin(angle + turn)}`;
      view.setAttribute("points", `${x},${y} ${corner(Math.PI / 4)} ${corner(-Math.PI / 4)}`);
      here.setAttribute("cx", x);
      here.setAttribute("cy", y);
      const [column, line] = [at % across, Math.floor(at / across)];
      frame.style.backgroundPosition = `${across > 1 ? (100 * column) / (across - 1) : 0}% ${down > 1 ? (100 * line) / (down - 1) : 0}%`;
      const where = `column ${Math.floor(trial.x[at]) + 1}, row ${Math.floor(trial.y[at]) + 1} from the south-west, ` +
        `looking ${COMPASS[trial.heading[at]]}`;
      map.setAttribute("aria-label", `The maze from above: the player is in ${where}`);
      frame.setAttribute("aria-label", `What the agent sees from ${where}`);
      lines.forEach(({ policy, line: item }, action) => {
        policy.set(over ? null : trial.probabilities[step][action]);
        item.classList.toggle("chosen", !over && trial.actions[step] === action);
      });
      Object.assign(map.dataset, { x: trial.x[at], y: trial.y[at] });
      seen();
      const number = trial.episode[at] + 1, episodes = trial.episode[steps - 1] + 1;
      if (over) {
        const lengths = Array.from({ length: episodes }, (_, e) => trial.episode.filter((of) => of === e).length);
        return `The trial is over: episodes of ${lengths.join(" and ")} steps, total reward ${signed(total(trial.rewards))}.`;
      }
      const action = trial.actions[step], reward = trial.rewards[step];
      return `Episode ${number} of ${episodes}, step ${step - start + 1}: ${ACTIONS[action]}, chosen with probability ` +
        `${trial.probabilities[step][action].toFixed(3)}; ${reward > 0 ? "the target is reached, " : ""}reward ` +
        `${signed(reward)}${reward < -0.0405 ? " (a wall)" : ""}. In ${where}. Total before: ${signed(total(trial.rewards, step))}.`;
    };
  }

  function go(to) {
    step = Math.max(0, Math.min(trial.actions.length, to));
    slider.value = step;
    const text = show();
    slider.setAttribute("aria-valuetext", text.split(/[:.]/, 1)[0]);
    say.textContent = text;
    if (step === trial.actions.length) pause();
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    say.setAttribute("aria-live", "polite");
  }

  function start() {
    clearInterval(timer);
    if (step === trial.actions.length) go(0);
    say.setAttribute("aria-live", "off"); // else every step would be spoken over the one before
    play.textContent = "Pause";
    timer = setInterval(() => go(step + 1), 1000 / Number(speed.value));
  }

  function load() {
    pause();
    trial = recordings[Number(chosen.value)];
    part("bandit").hidden = trial.kind !== "bandit";
    part("maze").hidden = trial.kind !== "maze";
    slider.max = trial.actions.length;
    show = trial.kind === "bandit" ? beginBandit() : beginMaze();
    go(0);
  }

  const toggle = () => (timer === null ? start() : pause());
  const moves = { first: () => go(0), back: () => go(step - 1), forward: () => go(step + 1), last: () => go(trial.actions.length) };
  for (const [name, move] of Object.entries(moves)) {
    part(name).addEventListener("click", () => { pause(); move(); });
  }
  play.addEventListener("click", toggle);
  chosen.addEventListener("change", load);
  speed.addEventListener("change", () => { if (timer !== null) start(); });
  slider.addEventListener("input", () => { pause(); go(Number(slider.value)); });
  const keys = { ArrowRight: "forward", ArrowUp: "forward", ArrowLeft: "back", ArrowDown: "back", Home: "first", End: "last" };
  player.addEventListener("keydown", (event) => {
    const isButton = event.target.tagName === "BUTTON";
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " " && !isButton) toggle();
    else if (event.key in keys) { pause(); moves[keys[event.key]](); }
    else return;
    event.preventDefault();
  });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    const at = step, playing = timer !== null;
    load();
    go(at);
    if (playing) start();
  });
  load();
})();

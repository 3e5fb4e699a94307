/* The table of all runs: sorted, filtered, a page at a time, a run's details under its row. */

(() => {
  const { columns, rows } = page.runs;
  const PAGE = narrow() ? 15 : 40;
  const at = column;
  const head = columns.filter((item) => item.width < 4);
  const state = { sort: "total_bits", descending: false, words: "", picked: {}, count: PAGE };
  const table = document.querySelector("[data-runs]");
  const more = document.querySelector("[data-more]");
  const found = make("output");

  const read = {
    text: (value) => value ?? "",
    whole: (value) => (value === null ? "" : String(value)),
    fixed1: (value) => (value === null ? "" : value.toFixed(1)),
    fixed2: (value) => (value === null ? "" : value.toFixed(2)),
    fixed4: (value) => (value === null ? "" : value.toFixed(4)),
    percent: (value) => (value === null ? "" : `${(100 * value).toFixed(1)}%`),
    small: (value) => (value === null ? "" : value !== 0 && Math.abs(value) < 1e-4 ? value.toExponential(1) : value.toFixed(4)),
    size: (value) => (value === null ? "" : withPrefix(value).join("")),
  };
  const text = (row, column) => read[column.kind](row[at[column.name]]);
  const numeric = (column) => column.kind !== "text";

  function selected() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const texts = columns.filter((column) => !numeric(column)).map((column) => at[column.name]);
    const kept = rows.filter((row) => Object.entries(state.picked).every(([name, value]) => value === "" || String(row[at[name]]) === value)
      && words.every((word) => texts.some((i) => String(row[i]).toLowerCase().includes(word))));
    const i = at[state.sort];
    const order = (a, b) => (a === null) - (b === null) || (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    return kept.sort((a, b) => (state.descending && a[i] !== null && b[i] !== null ? -1 : 1) * order(a[i], b[i]));
  }

  function fill() {
    const kept = selected();
    const first = kept.length > state.count ? `, the first ${state.count} shown` : "";
    found.textContent = `${kept.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} runs${first}`;
    table.tHead?.remove();
    table.tBodies[0]?.remove();
    table.append(make("thead", {}, make("tr", {}, ...head.map(headOf))), make("tbody", {}, ...kept.slice(0, state.count).map(rowOf)));
    const left = kept.length - state.count;
    more.replaceChildren(...(left > 0 ? [button(`Show ${Math.min(left, 5 * PAGE)} more`, () => { state.count += 5 * PAGE; fill(); })] : []));
  }

  const button = (label, act) => {
    const made = make("button", { type: "button", textContent: label });
    made.addEventListener("click", act);
    return made;
  };

  function headOf(column) {
    const cell = make("th", { scope: "col", className: `${numeric(column) ? "number " : ""}from${column.width}` }, button(column.text, () => {
      state.descending = state.sort === column.name && !state.descending;
      state.sort = column.name;
      fill();
      table.querySelector("th[aria-sort] button").focus();
    }));
    if (state.sort === column.name) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    return cell;
  }

  function rowOf(row) {
    const line = make("tr", {}, ...head.map((column) => make("td", { className: `${numeric(column) ? "number " : ""}from${column.width}` })));
    head.forEach((column, i) => {
      const cell = line.cells[i];
      if (column.name === "model") {
        const opener = button(text(row, column), () => toggle(line, row, opener));
        opener.setAttribute("aria-expanded", "false");
        cell.append(opener);
      } else {
        if (column.name === "format") {
          const dot = make("span", { className: "dot" });
          dot.style.background = `var(--k${Math.min(row[at.k], 16)})`;
          cell.append(dot);
        }
        cell.append(text(row, column));
      }
    });
    return line;
  }

  function toggle(line, row, opener) {
    const open = line.classList.toggle("open");
    opener.setAttribute("aria-expanded", String(open));
    if (!open) return line.nextElementSibling.remove();
    const facts = columns.map((column) => make("div", {}, make("dt", { textContent: column.text }), make("dd", { textContent: text(row, column) })));
    return line.after(make("tr", {}, make("td", { colSpan: head.length }, make("dl", { className: "facts" }, ...facts))));
  }

  function save() {
    const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    const lines = [columns.map((column) => column.name), ...selected().map((row) => row.map((value) => (value === null ? "" : String(value))))];
    const link = make("a", { download: "kbit-runs.csv", href: URL.createObjectURL(new Blob([lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n"], { type: "text/csv" })) });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  function tools() {
    const search = make("input", { type: "search", placeholder: "Filter by model, format, host ..." });
    search.setAttribute("aria-label", "Filter runs");
    search.addEventListener("input", () => { state.words = search.value; state.count = PAGE; fill(); });
    const picks = [["k", "any k"], ["protocol", "any text"], ["embeddings", "any embeddings"]].flatMap(([name, any]) => {
      const values = [...new Set(rows.map((row) => row[at[name]]))].sort((a, b) => (typeof a === "number" ? a - b : a.localeCompare(b)));
      if (values.length < 2) return [];
      const pick = make("select", { name }, make("option", { value: "", textContent: any }), ...values.map((value) => make("option", { value: String(value), textContent: name === "k" ? `k = ${value}` : value })));
      pick.setAttribute("aria-label", name);
      pick.addEventListener("change", () => { state.picked[name] = pick.value; state.count = PAGE; fill(); });
      return [pick];
    });
    document.querySelector("[data-table-tools]").append(search, ...picks, button("Save as CSV", save), found);
  }

  tools();
  fill();
  showView(page.initial);
})();

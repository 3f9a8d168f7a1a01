// Filters a list in the page by words and by chosen values. No network, no storage: the choice lives in the
// address after "#", so that it can be linked to and also works when the page is opened from disk.
(function () {
  "use strict";

  const fold = (text) => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

  function start(form) {
    const entries = Array.from(document.getElementById(form.dataset.list).children, (node) => ({
      node,
      text: fold(node.dataset.text),
      values: (key) => node.dataset[key].split("|"),
    }));
    const selects = Array.from(form.querySelectorAll("select"));
    const output = form.querySelector("output");

    function apply() {
      const words = fold(form.elements.q.value).split(/\s+/).filter(Boolean);
      const chosen = selects.filter((select) => select.value);
      let shown = 0;
      for (const entry of entries) {
        const match =
          words.every((word) => entry.text.includes(word)) &&
          chosen.every((select) => entry.values(select.name).includes(select.value));
        entry.node.hidden = !match;
        shown += match ? 1 : 0;
      }
      output.value = shown ? `${shown} of ${entries.length} shown` : "Nothing matches; clear a filter or use fewer words.";
    }

    function remember() {
      const state = new URLSearchParams();
      for (const field of [form.elements.q, ...selects]) if (field.value) state.set(field.name, field.value);
      const text = state.toString();
      history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
    }

    function recall() {
      const text = location.hash.slice(1);
      if (text && !text.includes("=")) return; // an ordinary anchor of the page
      const state = new URLSearchParams(text);
      for (const field of [form.elements.q, ...selects]) field.value = state.get(field.name) || "";
      for (const select of selects) if (select.selectedIndex < 0) select.value = "";
      apply();
    }

    form.addEventListener("input", () => { apply(); remember(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    // The fields are empty only after the reset event has been handled.
    form.addEventListener("reset", () => setTimeout(() => { apply(); remember(); }));
    window.addEventListener("hashchange", recall);
    form.hidden = false;
    apply();
    recall();
  }

  for (const form of document.querySelectorAll("form.filters")) start(form);
})();

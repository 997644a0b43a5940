// Renews pages that show the present, and goes on with an action that is done in parts. Without this script every page works: it
// shows the moment when it was loaded, and a button goes on.
"use strict";
(() => {
  let content = document.getElementById("content");
  if (!content) return;

  const button = (id, text, act) => {
    const made = document.createElement("button");
    made.id = id;
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", act);
    return made;
  };

  // The next part of an action begins by itself, unless somebody stops it.
  const form = content.querySelector("form[data-continue]");
  if (form) {
    let stopped = false;
    const said = document.createElement("p");
    said.setAttribute("role", "status");
    const stop = button("stop", "Stop", () => {
      stopped = true;
      window.stop();
      said.textContent = "Stopped. A part that had begun is done to its end.";
    });
    said.append(stop);
    form.before(said);
    setTimeout(() => {
      if (!stopped) form.requestSubmit();
    }, 700);
  }

  if (!content.dataset.live) return;
  const fast = content.dataset.live === "fast";
  const every = fast ? 1000 : 5000;
  const patience = fast ? 300_000 : Infinity;

  let paused = false;
  let moved = Date.now();
  for (const what of ["pointermove", "pointerdown", "keydown"]) {
    document.addEventListener(what, () => { moved = Date.now(); }, { passive: true });
  }
  const say = () => {
    live.textContent = paused ? "Renew again" : "Pause renewing";
    live.setAttribute("aria-pressed", String(paused));
  };
  const live = button("live", "", () => {
    paused = !paused;
    say();
  });
  say();
  document.querySelector(".person").append(live);

  // A page that somebody types into, opens or selects in stays as it is.
  const busy = () =>
    document.hidden || content.contains(document.activeElement) && document.activeElement !== content ||
    String(document.getSelection()) !== "" || content.querySelector("details[open]");

  let asking = false;
  const renew = async () => {
    if (paused || asking || busy()) return;
    if (Date.now() - moved > patience) {
      paused = true;
      say();
      return;
    }
    asking = true;
    try {
      const response = await fetch(location.href, { headers: { "x-outbox-refresh": "1" }, redirect: "manual" });
      if (response.type === "opaqueredirect") {
        location.reload();
        return;
      }
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById("content");
      if (fresh && !paused && !busy()) {
        content.replaceWith(fresh);
        content = fresh;
      }
    } catch {
      // The server is gone for now; the next round tries again.
    } finally {
      asking = false;
    }
  };
  setInterval(renew, every);
})();

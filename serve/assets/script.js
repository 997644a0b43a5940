// Renews pages that show the present. Without this script every page works, and shows the moment when it was loaded.
"use strict";
(() => {
  const EVERY = 5000;
  let content = document.getElementById("content");
  if (!content || !content.dataset.live) return;

  let paused = false;
  const button = document.createElement("button");
  button.id = "live";
  button.type = "button";
  const say = () => {
    button.textContent = paused ? "Renew again" : "Pause renewing";
    button.setAttribute("aria-pressed", String(paused));
  };
  button.addEventListener("click", () => {
    paused = !paused;
    say();
  });
  say();
  document.querySelector(".person").append(button);

  // A page that somebody types into, opens or selects in stays as it is.
  const busy = () =>
    document.hidden || content.contains(document.activeElement) && document.activeElement !== content ||
    String(document.getSelection()) !== "" || content.querySelector("details[open]");

  const renew = async () => {
    if (paused || busy()) return;
    try {
      const response = await fetch(location.href, { headers: { "x-outbox-refresh": "1" }, redirect: "manual" });
      if (response.type === "opaqueredirect") {
        location.reload();
        return;
      }
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.getElementById("content");
      if (fresh && !busy()) {
        content.replaceWith(fresh);
        content = fresh;
      }
    } catch {
      // The server is gone for now; the next round tries again.
    }
  };
  setInterval(renew, EVERY);
})();

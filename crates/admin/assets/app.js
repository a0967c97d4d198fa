// What makes a page live. Without it all pages can be read.
"use strict";

const parts = document.querySelectorAll("[data-live]");
const state = document.querySelector("[data-live-state]");
const hold = document.querySelector("[data-live-pause]");
let source = null;
let held = false;
let waiting = null;

/** Writes times in the reader's own time zone. */
function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const options = time.hasAttribute("data-moment")
      ? { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23" }
      : at.toDateString() === new Date().toDateString()
        ? { timeStyle: "medium" }
        : { dateStyle: "medium", timeStyle: "short" };
    time.textContent = new Intl.DateTimeFormat(undefined, options).format(at);
    time.title = time.dateTime;
  }
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  for (const text of root.querySelectorAll("[data-clock]")) {
    // The time of day stands first, in five characters.
    text.textContent = clock.format(new Date(text.dataset.clock)) + text.textContent.slice(5);
  }
}

function say(on, text) {
  if (!state) return;
  if (state.dataset.on !== String(on)) state.dataset.on = String(on);
  if (state.textContent !== text) state.textContent = text;
}

/** Puts the new part in place of the old one, but keeps focus, selection and what is typed. */
function show(html) {
  const target = parts[0];
  const next = document.createElement("div");
  next.innerHTML = html;
  localTimes(next);
  globalThis.Idiomorph.morph(target, next.innerHTML, {
    morphStyle: "innerHTML",
    ignoreActiveValue: true,
    callbacks: {
      // What the reader has opened stays open.
      beforeAttributeUpdated: (name, node) => !(node.tagName === "DETAILS" && name === "open"),
    },
  });
}

function connect() {
  if (source || document.hidden || parts.length === 0) return;
  const page = location.pathname + location.search;
  source = new EventSource("/events?page=" + encodeURIComponent(page));
  source.addEventListener("open", () => say(!held, held ? "held" : "live"));
  source.addEventListener("live", (event) => {
    const html = JSON.parse(event.data);
    if (held) waiting = html;
    else show(html);
  });
  source.addEventListener("error", () => {
    say(false, "reconnecting…");
    // A closed source was refused: signed out, or there are too many live pages.
    if (source && source.readyState === EventSource.CLOSED) {
      source = null;
      check();
    }
  });
}

function disconnect() {
  if (source) source.close();
  source = null;
}

/** After a refusal: to the sign-in page if that is why, else another try in a while. */
async function check() {
  try {
    const answer = await fetch("/about", { method: "HEAD", headers: { accept: "application/json" } });
    if (answer.status === 401) return location.reload();
  } catch {
    // Modelgate is being restarted.
  }
  say(false, "not live");
  setTimeout(connect, 5000);
}

function copyButtons() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const from = document.getElementById(button.dataset.copy);
      await navigator.clipboard.writeText(from.textContent);
      const label = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }
}

if (hold) {
  hold.hidden = false;
  hold.addEventListener("click", () => {
    held = !held;
    hold.textContent = held ? "Go on" : "Hold still";
    say(!held, held ? "held" : "live");
    if (!held && waiting) {
      show(waiting);
      waiting = null;
    }
  });
}

// A browser has six connections for a host; pages that nobody sees need none.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
addEventListener("pagehide", disconnect);
addEventListener("pageshow", connect);

localTimes(document);
copyButtons();
connect();

// Readers who asked their system for less motion start the videos themselves.
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
  for (const video of document.querySelectorAll("video")) {
    video.removeAttribute("autoplay");
    video.pause();
  }
}
// What is folded on the screen is printed in full.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});

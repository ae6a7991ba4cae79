# The values DeLong's interval and test are held against, by pROC.
# Debian: apt-get install r-cran-proc. Run in this folder: Rscript regenerate.R
suppressPackageStartupMessages(library(pROC))

draw <- function(name, seed, positives, negatives, digits) {
  set.seed(seed)
  label <- c(rep(1, positives), rep(0, negatives))
  shared <- rnorm(length(label))
  first <- plogis(1.2 * label + shared + rnorm(length(label)))
  second <- plogis(0.8 * label + shared + 0.7 * rnorm(length(label)))
  data.frame(case = name, label = label, first = round(first, digits),
             second = round(second, digits))
}

cases <- list(
  draw("no_ties", 1, 45, 145, 15),
  draw("ties", 2, 30, 60, 1),
  draw("rare", 3, 5, 400, 3),
  draw("smallest", 5, 2, 3, 15)
)

measure <- function(data) {
  one <- roc(data$label, data$first, levels = c(0, 1), direction = "<", quiet = TRUE)
  two <- roc(data$label, data$second, levels = c(0, 1), direction = "<", quiet = TRUE)
  ci <- ci.auc(one, method = "delong", conf.level = 0.95)
  wide <- ci.auc(two, method = "delong", conf.level = 0.99)
  test <- roc.test(one, two, method = "delong", paired = TRUE)
  # pROC has no interval on the logit scale: this is the delta method on its variance.
  slope <- 1 / (one$auc * (1 - one$auc))
  logit <- plogis(qlogis(as.numeric(one$auc)) + c(-1, 1) * qnorm(0.975) * slope *
                    sqrt(var(one, method = "delong")))
  data.frame(
    case = data$case[1],
    first = as.numeric(one$auc), first_variance = var(one, method = "delong"),
    first_low95 = ci[1], first_high95 = ci[3],
    first_logit_low95 = logit[1], first_logit_high95 = logit[2],
    second = as.numeric(two$auc), second_variance = var(two, method = "delong"),
    second_low99 = wide[1], second_high99 = wide[3],
    covariance = cov(one, two, method = "delong"),
    z = as.numeric(test$statistic), p_value = test$p.value,
    difference_low95 = test$conf.int[1], difference_high95 = test$conf.int[2]
  )
}

options(digits = 17)
write.csv(do.call(rbind, cases), "scores.csv", row.names = FALSE, quote = FALSE)
# Measured on the scores as they stand in the file.
frozen <- read.csv("scores.csv")
expected <- do.call(rbind, lapply(split(frozen, frozen$case), measure))
write.csv(expected, "expected.csv", row.names = FALSE, quote = FALSE)
